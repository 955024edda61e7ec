"""Is this configuration possible? Answered before torch is imported, in words for the person who typed it."""

import ast
import difflib
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from engine.rundir import RunDirectory
from engine.schema import Key, read_keys

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
ABSENT = object()


class CommandError(Exception):
    """A mistake on the command line; the message is one line that names it."""


def check(config_name: str, overrides: Sequence[Override]) -> DictConfig:
    """The configuration of one job, with Hydra's own part. Hydra must have been initialised.

    Raises CommandError for the first thing that is wrong with it.
    """
    lines = [str(override.input_line) for override in overrides]
    for override in overrides:
        check_options(override)
    found = list(keys_of_files(config_name, lines))
    keys = known_keys(found)
    for override in overrides:
        check_name(override, keys)
    check_recipe(overrides, found, keys)
    config = compose(config_name, overrides=lines, return_hydra_config=True)
    check_values(config, keys)
    if config_name == "evaluate":
        find_checkpoint(config.checkpoint)
    else:
        check_model(config)
        check_together(config)
    return config


# Names


def check_options(override: Override) -> None:
    """Refuse an option that its group does not have, and a run without one."""
    loader = GlobalHydra.instance().config_loader()
    group, chosen = override.key_or_group, override.value()
    if group not in loader.list_groups(""):
        return
    if group == "attention" and not (override.is_add() and str(override.package).startswith("model.")):
        raise CommandError(f"{override.input_line}: attention goes into a network: +attention@model.block_attention=se")
    if group != "attention" and override.package:
        raise CommandError(f"{override.input_line}: this group has one place, {group}=...")
    if override.is_delete():
        raise CommandError(f"~{group}: a run cannot be without; for no regularization: regularization=[]")
    if isinstance(chosen, list) and group != "regularization":
        raise CommandError(f"{override.input_line}: {group} takes one option")
    if chosen is None and group == "recipe":
        return
    if chosen is None or (group == "regularization" and chosen in ("none", "null")):
        raise CommandError(f"{override.input_line}: a run cannot be without; for no regularization: regularization=[]")
    options = loader.get_group_options(group)
    for option in chosen if isinstance(chosen, list) else [chosen]:
        if str(option) not in options:
            hint = did_you_mean(str(option), options)
            where = "python -m engine.recipes" if group == "recipe" else "--help"
            raise CommandError(f"{group}={option}: no such option{hint}; {where} lists them all")


def check_name(override: Override, keys: dict[str, Key | None]) -> None:
    """Refuse a key that no chosen file has, also where it is to be added, and one that only follows another."""
    loader = GlobalHydra.instance().config_loader()
    name = override.key_or_group
    if name.startswith("hydra.") or "/" in name or name in loader.list_groups(""):
        return
    if name.endswith("_target_"):
        raise CommandError(
            f"{override.input_line}: what is built is named in conf/ alone; choose an option of the group"
        )
    if override.is_delete() and not re.fullmatch(r"augmentation\.\w+", name):
        raise CommandError(f"~{name}: a run cannot be without")
    if name not in keys:
        regularizers = loader.get_group_options("regularization")
        group, *rest = name.split(".")
        if group == "regularization" and rest[0] in regularizers and f"regularization.{rest[0]}" not in keys:
            raise CommandError(f"{name}: {rest[0]} is not among the regularizers: regularization=[...,{rest[0]}]")
        last = name.rpartition(".")[2]
        likely = [key for key in keys if key.endswith(f".{last}")]
        if last in regularizers:
            likely.insert(0, f"regularization=[{last}]")
        raise CommandError(f"{name}: no such key{did_you_mean(name, keys, first=likely)}")
    key = keys[name]
    if key is None and not override.is_delete() and not isinstance(override.value(), dict):
        raise CommandError(f"{override.input_line}: {name} has keys of its own, set those ({name}.KEY=...)")
    if key is not None and key.follows:
        raise CommandError(f"{override.input_line}: this follows {key.follows}, set that")


def did_you_mean(word: str, known: Iterable[str], first: Sequence[str] = ()) -> str:
    """The nearest known words as a question that goes behind a message, or nothing."""

    def same_beginning(candidate: str) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(word, candidate, strict=False))))

    near = difflib.get_close_matches(word, known, n=5, cutoff=0.75)
    near = list(dict.fromkeys([*first, *sorted(near, key=same_beginning, reverse=True)]))[:2]
    return f", did you mean {' or '.join(near)}?" if near else ""


def keys_of_files(config_name: str, overrides: list[str]) -> Iterator[tuple[str, str, Key | None]]:
    """Every key of the files that the overrides choose, as (file below conf/, dotted name, what it may be).

    None stands for a key that holds further keys.
    """
    loader = GlobalHydra.instance().config_loader()
    directories = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    for default in loader.compute_defaults_list(config_name, overrides, RunMode.RUN).defaults:
        files = [directory / f"{default.config_path}.yaml" for directory in directories]
        text = next((file.read_text() for file in files if file.is_file()), "{}")  # Hydra's own are no files
        package = [part for part in (default.package or "").split(".") if part not in ("", "_global_")]
        for path, key in read_keys(text):
            if path != ("defaults",):
                yield default.config_path, ".".join([*package, *path]), key


def known_keys(found: Iterable[tuple[str, str, Key | None]]) -> dict[str, Key | None]:
    """What each key may be, by its dotted name; later files win, as in Hydra, and a recipe adds no key.

    A file that inherits a key need not say again what it may be.
    """
    keys: dict[str, Key | None] = {}
    for file, name, key in found:
        inherited = name in keys and key is not None and not key.form
        if not inherited and not file.startswith("recipe/"):
            keys[name] = key
    return keys


def check_recipe(
    overrides: Sequence[Override], found: Sequence[tuple[str, str, Key | None]], keys: dict[str, Key | None]
) -> None:
    """Refuse a recipe's key that nothing has, and one that it means for an option which the command line replaces.

    What it says of a regularizer that is not chosen does nothing.
    """
    given = {override.key_or_group: override.input_line for override in overrides}
    of_any_option = {name for file, name, _ in found if "/" not in file}
    for name in [name for file, name, key in found if file.startswith("recipe/") and key is not None]:
        group, *below = name.split(".")
        if name in given or (group == "regularization" and f"{group}.{below[0]}" not in keys):
            continue
        if name not in keys:
            because = f" with {given[group]}" if group in given else ""
            raise CommandError(f"{given['recipe']}: it sets {name}, but there is no such key{because}")
        if group in given and group != "regularization" and name not in of_any_option:
            raise CommandError(f"{given[group]}: {given['recipe']} sets {name} for another {group}: set it as well")


# Values


def check_values(config: DictConfig, keys: dict[str, Key | None]) -> None:
    """Hold each value to what the comment beside its key says."""
    for name, key in keys.items():
        if key is None or name.startswith("hydra."):
            continue
        try:
            value = OmegaConf.select(config, name, default=ABSENT, throw_on_missing=True)
        except MissingMandatoryValue:
            raise CommandError(f"{name} must be given: {key.description}") from None
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if value is not ABSENT and (mistake := key.mistake(value)):
            raise CommandError(f"{name}={as_typed(value)}: {mistake}")


def as_typed(value: Any) -> str:
    """A plain value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(as_typed(member) for member in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def find_checkpoint(path: str) -> Path:
    """The file that `checkpoint=path` means: the file itself, or the best, else the last, of a run's directory.

    Raises CommandError where there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        run = RunDirectory(file)
        file = run.best if run.best.is_file() else run.last
    if not file.is_file():
        raise CommandError(f"checkpoint={path}: there is no checkpoint ({file} does not exist)")
    require_checkpoint(file)
    return file


def require_checkpoint(file: Path) -> None:
    """Raise CommandError for a file that cannot be a checkpoint: torch.save writes zip archives."""
    if not zipfile.is_zipfile(file):
        raise CommandError(f"{file} is not a checkpoint")


# Combinations


def check_model(config: DictConfig) -> None:
    """Refuse stages that do not fit together, and a regularizer that the chosen network has no place for."""
    stages = {name: config.model[name] for name in ("widths", "depths") if name in config.model}
    if len({len(entries) for entries in stages.values()}) > 1 or any(not entries for entries in stages.values()):
        given = " and ".join(f"model.{name}={as_typed(list(entries))}" for name, entries in stages.items())
        raise CommandError(f"{given}: there must be one entry a stage")
    arguments = constructor_arguments(config.model._target_)
    for name, value in OmegaConf.to_container(config.model, resolve=False).items():
        if arguments is None or name in arguments or name == "_target_":
            continue
        handed_on = str(value).startswith("${regularization.")
        what = f"regularization={str(value).strip('${}').split('.')[1]}" if handed_on else f"model.{name}"
        raise CommandError(f"model={config.hydra.runtime.choices.model} has no place for {what}")


def constructor_arguments(target: str) -> set[str] | None:
    """The arguments of one of the project's classes, read from its source without importing it, or None."""
    module, _, name = target.rpartition(".")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        return None
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return {argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]}
    return None


def targets(package: str) -> frozenset[str]:
    """Every `_target_` within a package that a file of conf/ names: the code that a configuration may ask for."""
    pattern = re.compile(rf"_target_:\s*({package}\.[\w.]+)")
    return frozenset(target for file in CONF.rglob("*.yaml") for target in pattern.findall(file.read_text()))


def check_together(config: DictConfig) -> None:
    """Refuse what is impossible only in combination."""
    trainer = config.trainer
    if trainer.batch_size == "auto":
        if trainer.micro_batches > 1:
            raise CommandError(
                "trainer.batch_size=auto: a batch that fits need not be computed in parts, micro_batches=1"
            )
    elif trainer.micro_batches > trainer.batch_size:
        raise CommandError(
            f"trainer.micro_batches={trainer.micro_batches}: more parts than trainer.batch_size={trainer.batch_size}"
        )
    if trainer.compile and "checkpointing" in config.model and config.model.checkpointing:
        raise CommandError("trainer.compile=true: not with model.checkpointing=true, set that to false")
    if config.lr_find and config.resume:
        raise CommandError("lr_find=true: a range test begins with new weights, it cannot go on with those of resume=")
    make_schedule(config)


def learning_rate_scale(config: DictConfig) -> float:
    """How many times optimizer.lr the learning rate is: a power of the batch's relative size."""
    exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.trainer.lr_scaling]
    return (config.trainer.batch_size / config.trainer.lr_batch_size) ** exponent


def make_schedule(config: DictConfig, *, steps_per_epoch: float = math.inf) -> Any:
    """The learning-rate schedule of a configuration with its warm-up in front: epoch -> factor.

    Without `steps_per_epoch`, which only the data tell, a warm-up given in steps has no length.
    Raises CommandError for a combination that makes no schedule.
    """
    from schedulers.warmup import Warmup

    options, max_epochs = OmegaConf.to_container(config.scheduler, resolve=True), config.trainer.max_epochs
    warmup = {name: options.pop(f"warmup_{name}") for name in ("epochs", "steps", "shape", "first")}
    given = "warmup_epochs"
    if (steps := warmup.pop("steps")) is not None:
        if warmup["epochs"]:
            raise CommandError("scheduler.warmup_steps and scheduler.warmup_epochs: only one of them can be given")
        given, warmup["epochs"] = "warmup_steps", steps / steps_per_epoch
    if warmup["epochs"] >= max_epochs:
        raise CommandError(
            f"scheduler.{given}={config.scheduler[given]:g}: not shorter than trainer.max_epochs={max_epochs}"
        )
    try:
        schedule = instantiate(options, start=warmup["epochs"], end=max_epochs, _convert_="all")
        return Warmup(schedule=schedule, **warmup) if steps or warmup["epochs"] else schedule
    except InstantiationException as error:
        raise CommandError(f"scheduler={options['_target_'].split('.')[1]}: {error.__cause__}") from None
    except ValueError as error:
        raise CommandError(f"scheduler.warmup_shape={warmup['shape']}: {error}") from None
