"""Is this configuration possible? Answered before torch is imported, in words for the person who typed it."""

import ast
import difflib
import glob
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from engine.errors import RunError
from engine.rundir import RunDirectory
from engine.schema import Key, read_keys

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PLUGINS = ("hydra/launcher", "hydra/sweeper")  # how a sweep is run; packages may bring more options than "basic"
PARTS = ("every_tta", "explain", "robustness", "cost")  # of an evaluation, which are looked at on request
NEEDED_BY_ONNX = ("onnx", "onnxscript", "onnxruntime")  # which are not among the requirements
PACKAGES = {f"submitit_{where}": "hydra-submitit-launcher" for where in ("slurm", "local")} | {
    "joblib": "hydra-joblib-launcher"
}
ABSENT = object()


class CommandError(RunError):
    """A mistake on the command line; the message is one line that names it."""


def check(config_name: str, overrides: Sequence[Override], *, to_run: bool = True) -> DictConfig:
    """The configuration of one job, with Hydra's own part. Hydra must have been initialised.

    One that is only looked at (not `to_run`) may lack values that must be given. Raises CommandError
    for the first thing that is wrong.
    """
    lines = [str(override.input_line) for override in overrides]
    groups = groups_of(config_name)
    for override in overrides:
        check_options(override, groups)
    found = list(keys_of_files(config_name, lines))
    keys = known_keys(found)
    for override in overrides:
        if override.key_or_group not in groups:
            check_name(override, overrides, keys, groups)
    check_recipe(overrides, found, keys)
    with composing():
        config = compose(config_name, overrides=lines, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # for references to it, ${hydra:...}
    missing = check_values(config, keys, overrides)
    if missing and to_run:
        raise CommandError(f"{missing} must be given: {keys[missing].description}")
    if config_name == "config":
        check_regularizers(config, found)
        check_targets(config)
        check_model(config)
        check_together(config)
    elif to_run:
        check_evaluation(config)
    return config


# Names


def own_groups() -> list[str]:
    """The groups of conf/; what lies in conf/hydra is an option of a group of Hydra's."""
    return sorted(directory.name for directory in CONF.iterdir() if directory.is_dir() and directory.name != "hydra")


def groups_of(config_name: str) -> list[str]:
    """The groups of which an option can be chosen."""
    return [*own_groups(), *PLUGINS] if config_name == "config" else ["tta"]


def check_options(override: Override, groups: Sequence[str]) -> None:
    """Refuse an option that its group does not have, and a run without one."""
    loader = GlobalHydra.instance().config_loader()
    group, chosen, line = override.key_or_group, override.value(), override.input_line
    if group not in groups:
        if "/" in group or group in loader.list_groups("") or override.package is not None:
            here = "" if "model" in groups else "; the network and the data are those of the checkpoint"
            raise CommandError(f"{line}: there is no group {group}{did_you_mean(group, groups) or here}")
        return
    if group == "attention" and not (
        override.is_add() and re.fullmatch(r"model\.[a-z]\w*_attention", str(override.package))
    ):
        raise CommandError(f"{line}: attention goes into a network: +attention@model.block_attention=se")
    if group != "attention" and (override.package is not None or override.is_add() or override.is_force_add()):
        raise CommandError(f"{line}: this group has one place, {group}=...")
    if (
        group == "hydra/launcher"
        and chosen == "submitit_slurm"
        and not (shutil.which("sbatch") and shutil.which("srun"))
    ):
        raise CommandError(f"{line}: this machine has no sbatch and srun; hydra/launcher=submitit_local needs none")
    if group == "recipe" and (override.is_delete() or chosen is None):
        raise CommandError(f"{line}: a run is without a recipe where none is named; leave this out")
    if override.is_delete() or chosen is None or (group == "regularization" and chosen in ("none", "null")):
        hint = "for no regularization: regularization=[]" if group == "regularization" else f"{group}=... chooses one"
        raise CommandError(f"{line}: a run cannot be without; {hint}")
    if isinstance(chosen, list) and group != "regularization":
        raise CommandError(f"{line}: {group} takes one option")
    options = loader.get_group_options(group)
    for option in chosen if isinstance(chosen, list) else [chosen]:
        if str(option) not in options:
            where = "python -m engine.recipes lists them all" if group == "recipe" else "--help lists them all"
            where = f"installed are {', '.join(options)}" if group in PLUGINS else where
            if group == "hydra/launcher" and option in PACKAGES:
                raise CommandError(f"{line}: this needs a package, pip install {PACKAGES[option]}; {where}")
            hint = did_you_mean(as_typed(option), options)
            raise CommandError(f"{group}={as_typed(option)}: no such option{hint}; {where}")


def check_name(
    override: Override, overrides: Sequence[Override], keys: dict[str, Key | None], groups: Sequence[str]
) -> None:
    """Refuse a key that no chosen file has, also where it is to be added, and one that only follows another."""
    name, value, line = override.key_or_group, override.value(), override.input_line
    names_code = any(part.startswith("_") for part in name.split("."))
    if names_code or (isinstance(value, (dict, list)) and "_target_" in str(value)):
        raise CommandError(f"{line}: what is built is named in conf/ alone; choose an option of the group")
    if name.startswith("hydra."):
        return check_hydra_name(override, overrides, keys)
    if name not in keys:
        raise CommandError(f"{name}: {unknown(name, keys, groups)}")
    if override.is_delete() and not re.fullmatch(r"augmentation\.\w+", name):
        raise CommandError(f"~{name}: a run cannot be without")
    key = keys[name]
    if key is None and not override.is_delete():
        raise CommandError(f"{line}: {name} has keys of its own, set those ({name}.KEY=...)")
    if key is not None and key.follows:
        raise CommandError(f"{line}: this follows {key.follows}, set that")


def unknown(name: str, keys: Iterable[str], groups: Sequence[str]) -> str:
    """What to say of a key that there is not."""
    regularizers = GlobalHydra.instance().config_loader().get_group_options("regularization")
    group, *rest = name.split(".")
    if group == "regularization" and rest and rest[0] in regularizers and f"regularization.{rest[0]}" not in keys:
        return f"{rest[0]} is not among the regularizers: regularization=[...,{rest[0]}]"
    parent, _, last = name.rpartition(".")
    settable = [key for key in keys if not any(part.startswith("_") for part in key.split("."))]
    likely = [key for key in settable if f".{key}".endswith(f".{last}")]
    if last in regularizers:
        likely.insert(0, f"regularization=[{last}]")
    hint = did_you_mean(name, settable if parent else [*settable, *groups], first=likely)
    beside = [key.rpartition(".")[2] for key in settable if parent and key.rpartition(".")[0] == parent]
    if beside and not hint:
        hint = f"; {parent} has {', '.join(beside)}"
    return f"no such key{hint}"


def check_hydra_name(override: Override, overrides: Sequence[Override], keys: dict[str, Key | None]) -> None:
    """Refuse those of Hydra's own keys that conf/ does not offer: they would replace what a run is made of.

    An installed launcher or sweeper, which is none of conf/hydra, has keys that only Hydra knows.
    """
    name, line = override.key_or_group, override.input_line
    changes = not (override.is_add() or override.is_force_add() or override.is_delete())
    offered = [key for key, what in keys.items() if key.startswith("hydra.") and what and what.form]
    plugin = next((group for group in PLUGINS if name.startswith(f"{group.replace('/', '.')}.")), None)
    chosen = next((other.value() for other in overrides if other.key_or_group == plugin), "basic")
    if plugin and chosen == "basic":
        raise CommandError(f"{line}: {plugin}=basic has nothing to set")
    is_own = plugin is not None and (CONF / plugin / f"{chosen}.yaml").is_file()
    if plugin and not is_own:
        require_installed(name, plugin, chosen)
    if name not in offered and (is_own or not plugin):
        hint = did_you_mean(name, offered) or f"; of those of Hydra there are {', '.join(offered)}"
        raise CommandError(f"{name}: no such key{hint}")
    if not changes:
        raise CommandError(f"{line}: a key of Hydra's is set by {name}=...")


def did_you_mean(word: str, known: Iterable[str], first: Sequence[str] = ()) -> str:
    """The nearest known words as a question that goes behind a message, or nothing."""
    typed = word.lower()

    def same_beginning(candidate: str) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(typed, candidate.lower(), strict=False))))

    by_lower = {candidate.lower(): candidate for candidate in known}
    near = [by_lower[found] for found in difflib.get_close_matches(typed, by_lower, n=5, cutoff=0.75)]
    near = list(dict.fromkeys([*first, *sorted(near, key=same_beginning, reverse=True)]))
    if not near and len(typed) >= 3:  # part of a word
        near = sorted((by_lower[found] for found in by_lower if typed in found), key=len)
    return f", did you mean {' or '.join(near[:2])}?" if near else ""


def keys_of_files(config_name: str, overrides: list[str]) -> Iterator[tuple[str, str, Key | None]]:
    """Every key of the files that the overrides choose, as (file below conf/, dotted name, what it may be).

    None stands for a key that holds further keys.
    """
    loader = GlobalHydra.instance().config_loader()
    directories = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    with composing():
        defaults = loader.compute_defaults_list(config_name, overrides, RunMode.RUN).defaults
    for default in defaults:
        files = [directory / f"{default.config_path}.yaml" for directory in directories]
        files = [file for file in files if file.is_file()]  # Hydra's own are no files
        if len(files) > 1:
            raise CommandError(f"{files[1]}: conf/ has a file of that name, choose another")
        package = [part for part in (default.package or "").split(".") if part not in ("", "_global_")]
        for path, key in keys_of_file(files[0]) if files else ():
            if path != ("defaults",):
                yield default.config_path, ".".join([*package, *path]), key


def keys_of_file(file: Path) -> list[tuple[tuple[str, ...], Key | None]]:
    """The keys of a file. Raises CommandError, which names it, for one that cannot be read or holds no keys."""
    try:
        return keys_of_text(file.read_text())
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise CommandError(f"{file}: {error}") from None


@cache
def keys_of_text(text: str) -> list[tuple[tuple[str, ...], Key | None]]:
    """The keys of a file's text; the jobs of a sweep have most files in common."""
    return list(read_keys(text))


def require_installed(name: str, plugin: str, chosen: str) -> None:
    """Refuse a key that an installed launcher or sweeper does not have, by what it has told Hydra."""
    place = plugin.replace("/", ".")
    node = ConfigStore.instance().load(f"{plugin}/{chosen}.yaml").node
    known = [f"{place}.{key}" for key in node if not str(key).startswith("_")]
    if ".".join(name.split(".")[:3]) not in known:
        hint = did_you_mean(name, known) or f"; {plugin}={chosen} has {', '.join(key.split('.')[2] for key in known)}"
        raise CommandError(f"{name}: no such key{hint}")


@contextmanager
def composing() -> Iterator[None]:
    """Whatever Hydra raises at what it did not expect, as a CommandError."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"this cannot be composed: {error}") from error


def known_keys(found: Iterable[tuple[str, str, Key | None]]) -> dict[str, Key | None]:
    """What each key may be, by its dotted name; later files win, as in Hydra, and a recipe adds no key.

    A file that inherits a key need not say again what it may be. A key that stands for no option of its group holds
    further keys as soon as one is chosen.
    """
    keys: dict[str, Key | None] = {}
    for file, name, key in found:
        if keys.get(parent := name.rpartition(".")[0]):
            keys[parent] = None
        inherited = name in keys and key is not None and not key.form and not key.follows
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
            if group == "recipe":
                raise CommandError(f"{given[group]}: its file must begin with '# @package _global_'")
            because = f" with {given[group]}" if group in given else ""
            raise CommandError(f"{given['recipe']}: it sets {name}, but there is no such key{because}")
        if group in given and group != "regularization" and name not in of_any_option:
            raise CommandError(f"{given[group]}: {given['recipe']} sets {name} for another {group}: set it as well")


# Values


def check_values(config: DictConfig, keys: dict[str, Key | None], overrides: Sequence[Override]) -> str | None:
    """Hold each value to what the comment beside its key says; the first key that must be given and is not, or None."""
    typed = {override.key_or_group: override.input_line for override in overrides}
    missing = None
    # Hydra's own come last, since they follow from the others.
    for name, key in sorted(keys.items(), key=lambda item: item[0].startswith("hydra.")):
        if name.startswith("hydra.") and not (key and key.form):
            continue
        try:
            value = OmegaConf.select(config, name, default=ABSENT, throw_on_missing=True)
            if key and OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except MissingMandatoryValue:
            missing = missing or name
            continue
        except (OmegaConfBaseException, RecursionError) as error:
            if isinstance(error, InterpolationToMissingValueError) and "hydra" in str(error):
                continue  # Hydra knows the number of a job, and the like, only later
            reason = str(error).splitlines()[0]
            raise CommandError(f"{typed.get(name, name)}: the reference leads nowhere ({reason})") from None
        if key is None and value is not ABSENT and not OmegaConf.is_dict(value):
            raise CommandError(f"{name}={as_typed(value)}: {name} has keys of its own")
        if key and value is not ABSENT and (mistake := key.mistake(value, partial(beside, config, name))):
            whence = "" if name in typed or not key.description else f" ({key.description})"
            raise CommandError(f"{name}={as_typed(value)}: {mistake}{whence}")
    return missing


def beside(config: DictConfig, name: str, other: str) -> Any:
    """The value of another key that the comment of key `name` speaks of, by its last or its whole name, or None."""
    return OmegaConf.select(config, other if "." in other else f"{name.rpartition('.')[0]}.{other}", default=None)


def as_typed(value: Any) -> str:
    """A plain value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(as_typed(member) for member in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_typed(member)}' for key, member in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and re.fullmatch(r"null|true|false|[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE):
        return f"'{value}'"  # text that looks like something else
    return str(value)


def find_checkpoints(given: str | Sequence[str]) -> dict[str, Path]:
    """The files that `checkpoint=` means, by a name for each: of one its last part, of several what distinguishes them.

    A pattern means what it matches and has a checkpoint. Raises CommandError where one is missing or there twice.
    """
    given = [given] if isinstance(given, str) else list(given)
    if not given:
        raise CommandError("checkpoint=[]: at least one is wanted")
    paths = [
        path
        for one in given
        for path in [path for path in matches(one) if zipfile.is_zipfile(file_or_checkpoint(path))] or [one]
    ]
    found = [find_checkpoint(path) for path in paths]
    if again := [path for path, file in zip(paths, found, strict=True) if found.count(file) > 1]:
        raise CommandError(f"checkpoint={','.join(paths)}: {again[0]} is there twice")
    absolute = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    common = os.path.commonpath(absolute) if len(absolute) > 1 else os.path.dirname(absolute[0])
    return {os.path.relpath(path, common): file for path, file in zip(absolute, found, strict=True)}


def matches(pattern: str) -> list[str]:
    """What a path with the signs * and ? matches as in a shell, in order; nothing for one that is there as it is."""
    whole = os.path.expanduser(pattern)
    return [] if os.path.exists(whole) else sorted(glob.glob(whole))


def find_checkpoint(path: str) -> Path:
    """The file that `checkpoint=path` means: the file itself, or the best, else the last, of a run's directory.

    Raises CommandError where there is none.
    """
    file = file_or_checkpoint(path)
    if not file.is_file():
        below = [str(run) for depth in ("*", "*/*") for run in sorted(Path(path).glob(f"{depth}/checkpoints"))]
        first = ", ".join(run.removesuffix("/checkpoints") for run in below[:3])
        runs = f"; runs below it: {first}{', ...' * (len(below) > 3)}" if below else ""
        raise CommandError(f"checkpoint={path}: there is no checkpoint ({file} does not exist){runs}")
    require_checkpoint(file)
    return file


def find_weights(path: str) -> Path:
    """The file that `init_from=path` means, likewise; it may also be another program's. Raises CommandError."""
    file = file_or_checkpoint(path)
    if not file.is_file():
        raise CommandError(f"init_from={path}: there are no weights ({file} does not exist)")
    return file


def file_or_checkpoint(path: str) -> Path:
    """The file itself, or the best checkpoint, else the last, of a run's directory."""
    file = Path(os.path.expanduser(path))
    if not file.is_dir():
        return file
    run = RunDirectory(file)
    return run.best if run.best.is_file() else run.last


def require_checkpoint(file: Path) -> None:
    """Raise CommandError for a file that cannot be a checkpoint: torch.save writes zip archives."""
    if not zipfile.is_zipfile(file):
        bare = "; of bare weights, train.py init_from=... init_only=true makes one" * (file.suffix == ".safetensors")
        raise CommandError(f"{file} is not a checkpoint{bare}")


# Combinations


def check_evaluation(config: DictConfig) -> None:
    """Refuse what evaluate.py cannot do with these networks, or not at once."""
    if config.cost_compile and not config.cost:
        raise CommandError("cost_compile=true: it adds to the table of cost=true, set that as well")
    for key in ("robustness_root", "robustness_limit"):
        if config[key] is not None and not config.robustness:
            raise CommandError(f"{key}={config[key]}: says how robustness is measured, which wants robustness=true")
    if config.predict is not None and config.export is not None:
        raise CommandError("predict= and export=: one at a time")
    several = len(find_checkpoints(config.checkpoint)) > 1
    if several and config.every_tta:
        raise CommandError("every_tta=true: a table of one network; give one checkpoint")
    if several and config.explain:
        raise CommandError("explain=true: pictures of one network; give one checkpoint")
    if config.predict is not None:
        check_instead(config, "predict", several=several, without=[*PARTS, "root"])
        for path in one_or_more(config.predict):
            if not (os.path.exists(os.path.expanduser(path)) or matches(path)):
                raise CommandError(f"predict={path}: there is no such file or folder")
    if config.export is not None:
        check_instead(config, "export", several=several, without=[*PARTS, "root", "eval_batch_size", "tta"])
        if "onnx" in one_or_more(config.export) and not all(map(find_spec, NEEDED_BY_ONNX)):
            raise CommandError(f"export=onnx: this needs further packages: pip install {' '.join(NEEDED_BY_ONNX)}")


def check_instead(config: DictConfig, key: str, *, several: bool, without: Sequence[str]) -> None:
    """Refuse what has no meaning where `key` asks for something in place of the evaluation."""
    if several:
        raise CommandError(f"{key}=: with one network; give one checkpoint")
    for other in without:
        if config[other] not in (None, False):
            raise CommandError(f"{other}= and {key}=: nothing is evaluated with {key}=, leave {other}= out")


def one_or_more(given: str | Sequence[str]) -> list[str]:
    """What stands in a key that takes one or a list, as a list without repetitions."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))


def check_regularizers(config: DictConfig, found: Iterable[tuple[str, str, Key | None]]) -> None:
    """Refuse a regularizer whose file does not set a key of its name, by which all is handed on."""
    for option in {file.partition("/")[2] for file, _, _ in found if file.startswith("regularization/")}:
        if option not in config.regularization:
            name = f"regularization.{option}"
            raise CommandError(f"regularization={option}: its file, in the package _global_, must set {name}")


def check_targets(config: DictConfig) -> None:
    """Refuse an option whose file does not say what is built, or names code that there is not."""
    for place, option in config.hydra.runtime.choices.items():
        group, _, package = place.partition("@")
        if group not in ("model", "attention", "optimizer", "scheduler", "dataset", "tta"):
            continue
        target = OmegaConf.select(config, f"{package or group}._target_")
        if target is None:
            raise CommandError(f"{place}={option}: its file has no _target_, which says what is built")
        top, module, name = (str(target).partition(".")[0], *str(target).rpartition(".")[::2])
        is_own = (ROOT / top).is_dir() and top
        defined = any(getattr(node, "name", None) == name for node in definitions(module))
        if not module or (is_own and not defined) or (not is_own and not find_spec(top)):
            raise CommandError(f"{place}={option}: there is no {target}")


def check_model(config: DictConfig) -> None:
    """Refuse lists that do not fit together, and a regularizer that the chosen network has no place for."""
    check_lists(config.model)
    arguments = constructor_arguments(config.model._target_)
    for name, value in OmegaConf.to_container(config.model, resolve=False).items():
        if arguments is None or name in arguments or name == "_target_":
            continue
        handed_on = str(value).startswith("${regularization.")
        what = f"regularization={str(value).strip('${}').split('.')[1]}" if handed_on else f"model.{name}"
        raise CommandError(f"model={config.hydra.runtime.choices.model} has no place for {what}")


def check_lists(model: DictConfig) -> None:
    """Refuse lists of a network's settings that do not fit together."""
    for names, part in ((("widths", "depths"), "stage"), (("kernels", "dilations"), "branch")):
        lists = {name: model[name] for name in names if OmegaConf.is_list(OmegaConf.select(model, name))}
        if len({len(entries) for entries in lists.values()}) > 1:
            given = " and ".join(f"model.{name}={as_typed(list(entries))}" for name, entries in lists.items())
            raise CommandError(f"{given}: there must be one entry a {part}")


def constructor_arguments(target: str) -> set[str] | None:
    """The arguments of one of the project's classes, read from its source without importing it, or None."""
    module, _, name = target.rpartition(".")
    for node in definitions(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return {argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]}
    return None


def definitions(module: str) -> list[ast.stmt]:
    """What stands in one of the project's modules, read without importing it; nothing for other modules."""
    place = ROOT.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text()).body if file.is_file() else []


def targets(package: str) -> frozenset[str]:
    """Every `_target_` within a package that a file of conf/ names: the code that a configuration may ask for."""
    pattern = re.compile(rf"_target_:\s*({package}\.[\w.]+)")
    return frozenset(target for file in CONF.rglob("*.yaml") for target in pattern.findall(file.read_text()))


def check_together(config: DictConfig) -> None:
    """Refuse what is impossible only in combination."""
    trainer, optimizer = config.trainer, config.optimizer
    if trainer.batch_size == "auto" and trainer.micro_batches > 1:
        raise CommandError("trainer.batch_size=auto: a batch that fits need not be computed in parts, micro_batches=1")
    if trainer.compile and "checkpointing" in config.model and config.model.checkpointing:
        raise CommandError("trainer.compile=true: not with model.checkpointing=true, set that to false")
    if trainer.device in {"tf32": ("cpu", "mps"), "fp16": ("cpu",)}.get(trainer.precision, ()):
        raise CommandError(f"trainer.precision={trainer.precision}: not with trainer.device={trainer.device}")
    if config.sweep is not None and not re.fullmatch(r"\w[\w.+-]*", config.sweep):
        raise CommandError(f"sweep={as_typed(config.sweep)}: a name of letters, digits, and . + - _ is wanted")
    if config.lr_find and config.sweep:
        raise CommandError(
            "lr_find=true: a range test leaves no result that a sweep could go on with; leave sweep= out"
        )
    if config.lr_find and config.resume:
        raise CommandError("lr_find=true: a range test begins with new weights, it cannot go on with those of resume=")
    if config.init_from is not None and config.resume is None:
        find_weights(config.init_from)  # a run that goes on needs them no more
    if config.init_only and config.init_from is None:
        raise CommandError("init_only=true: it keeps the weights of init_from=, give that as well")
    if "nesterov" in optimizer and "momentum" in optimizer and optimizer.nesterov and not optimizer.momentum:
        raise CommandError("optimizer.nesterov=true: without momentum (optimizer.momentum=0) there is nothing ahead")
    flip = config.augmentation.get("flip")
    if flip and flip.alternating and flip.probability != 0.5:
        raise CommandError(
            f"augmentation.flip.probability={flip.probability:g}: with augmentation.flip.alternating=true each image "
            "is mirrored in every other epoch, a probability of 0.5"
        )
    if "study_name" in config.hydra.sweeper:
        check_study(config, config.hydra.sweeper)
    size = check_data(config)
    known = size and trainer.batch_size != "auto"
    make_schedule(config, steps_per_epoch=steps_per_epoch(config, size) if known else math.inf)


def check_study(config: DictConfig, options: DictConfig) -> None:
    """Refuse a study whose trials have no result to go by, or whose trials could not be at work together."""
    if not config.dataset.val_size:
        raise CommandError("dataset.val_size=0: a study would choose on the test images; hold training images out")
    if config.lr_find:
        raise CommandError("lr_find=true: a range test leaves no result that a study could go by")
    if not re.fullmatch(r"[a-z]\w*(\+\w+)?:///?[^/].*|[a-z]\w*(\+\w+)?:////.+", options.storage):
        raise CommandError(f"hydra.sweeper.storage={options.storage}: a URL is wanted, sqlite:///study.db")
    if options.n_jobs > 1 and config.hydra.runtime.choices["hydra/launcher"] == "basic":
        raise CommandError(f"hydra.sweeper.n_jobs={options.n_jobs}: for trials beside each other hydra/launcher=joblib")


def check_data(config: DictConfig) -> int | None:
    """Refuse what does not go with the size of the data set, as far as that is known: its number of training images."""
    dataset, known = config.dataset, known_of(config.dataset)
    size, classes, side = (known.get(name) for name in ("train_size", "classes", "image_size"))
    if size and classes and held_out(config, size) + classes > size:
        raise CommandError(
            f"dataset.val_size={dataset.val_size}: leaves too few of {size:,} training images for {classes} classes"
        )
    if classes and dataset.train_limit and dataset.train_limit < classes:
        raise CommandError(f"dataset.train_limit={dataset.train_limit}: fewer images than classes, which are {classes}")
    hidden = OmegaConf.select(config, "regularization.cutout.length")
    if side and hidden and "cutout" in config.augmentation and hidden > side:
        raise CommandError(f"regularization.cutout.length={hidden}: longer than the images, which have {side} pixels")
    return size


def known_of(dataset: DictConfig) -> dict[str, int]:
    """What a dataset group tells of its images before they are read: any of train_size, classes and image_size."""
    names = ("train_size", "classes", "image_size")
    known = {name: dataset[name] for name in names if name in dataset and isinstance(dataset[name], int)}
    if dataset._target_ == "data.cifar.cifar10":
        known = {"train_size": 50_000, "classes": 10, "image_size": 32}
    if dataset._target_ == "data.cifar.cifar100":
        known = {"train_size": 50_000, "classes": 20 if dataset.labels == "coarse" else 100, "image_size": 32}
    return known


def held_out(config: DictConfig, size: int) -> int:
    """How many of `size` training images are held out for validation."""
    share = config.dataset.val_size
    return int(share) if share >= 1 else round(share * size)


def steps_per_epoch(config: DictConfig, size: int) -> int:
    """Optimizer steps in an epoch where the data set has `size` training images."""
    whole, rest = divmod(trained_on(config, size), config.trainer.batch_size)
    return whole + (rest > 1 or whole == 0)


def trained_on(config: DictConfig, size: int) -> int:
    """How many of `size` training images an epoch sees."""
    images = size - held_out(config, size)
    return min(images, config.dataset.train_limit or images)


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
    if (steps := warmup.pop("steps")) is not None:
        if warmup["epochs"]:
            given = f"scheduler.warmup_steps={steps} and scheduler.warmup_epochs={warmup['epochs']:g}"
            raise CommandError(
                f"{given}: only one of them can be given, add scheduler.warmup_epochs=0 or scheduler.warmup_steps=null"
            )
        warmup["epochs"] = steps / steps_per_epoch
        if warmup["epochs"] >= max_epochs:
            raise CommandError(
                f"scheduler.warmup_steps={steps}: not shorter than trainer.max_epochs={max_epochs}, "
                f"each of {steps_per_epoch} steps"
            )
    try:
        schedule = instantiate(options, start=warmup["epochs"], end=max_epochs, _convert_="all")
        return Warmup(schedule=schedule, **warmup) if steps or warmup["epochs"] else schedule
    except InstantiationException as error:
        reason = str(error.__cause__ or error)
        is_of_a_key = re.match(r"\w+=", reason)
        raise CommandError(f"scheduler.{reason}" if is_of_a_key else f"{options['_target_']}: {reason}") from None
    except ValueError as error:
        raise CommandError(f"scheduler.warmup_shape={warmup['shape']}: {error}") from None
