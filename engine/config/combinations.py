"""Check combinations of settings, and the `_target_`s of a configuration, before any data is read."""

import ast
import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from engine.config.did_you_mean import CONF, ROOT, as_typed
from engine.config.schedule import dataset_facts, held_out, make_schedule, steps_per_epoch
from engine.config.schema import Key
from engine.run.errors import CommandError
from engine.run.find_checkpoint import find_checkpoints, find_weights, matches, one_or_more

PARTS = ("every_tta", "explain", "robustness", "cost")  # optional parts of an evaluation

NEEDED_BY_ONNX = ("onnx", "onnxscript", "onnxruntime")  # not in the requirements


def check_evaluation(config: DictConfig) -> None:
    """Reject invalid combinations of evaluate.py's settings."""
    if config.cost_compile and not config.cost:
        raise CommandError("cost_compile=true: requires cost=true")
    for key in ("robustness_root", "robustness_limit"):
        if config[key] is not None and not config.robustness:
            raise CommandError(f"{key}={config[key]}: requires robustness=true")
    if config.predict is not None and config.export is not None:
        raise CommandError("predict= and export= cannot be combined")
    several = len(find_checkpoints(config.checkpoint)) > 1
    if several and config.every_tta:
        raise CommandError("every_tta=true: takes one checkpoint")
    if several and config.explain:
        raise CommandError("explain=true: takes one checkpoint")
    if config.predict is not None:
        check_instead(config, "predict", several=several, without=[*PARTS, "root"])
        for path in one_or_more(config.predict):
            if not (os.path.exists(os.path.expanduser(path)) or matches(path)):
                raise CommandError(f"predict={path}: no such file or directory")
    if config.export is not None:
        check_instead(config, "export", several=several, without=[*PARTS, "root", "eval_batch_size", "tta"])
        if "onnx" in one_or_more(config.export) and not all(map(find_spec, NEEDED_BY_ONNX)):
            raise CommandError(f"export=onnx: requires more packages: pip install {' '.join(NEEDED_BY_ONNX)}")


def check_instead(config: DictConfig, key: str, *, several: bool, without: Sequence[str]) -> None:
    """Reject settings that do not apply to `key`, which replaces the evaluation."""
    if several:
        raise CommandError(f"{key}=: takes one checkpoint")
    for other in without:
        if config[other] not in (None, False):
            raise CommandError(f"{other}= and {key}= cannot be combined: {key}= does not evaluate")


def check_regularizers(config: DictConfig, found: Iterable[tuple[str, str, Key | None]]) -> None:
    """Reject a regularizer whose file does not set the key of its name, which others interpolate."""
    for option in {file.partition("/")[2] for file, _, _ in found if file.startswith("regularization/")}:
        if option not in config.regularization:
            name = f"regularization.{option}"
            raise CommandError(f"regularization={option}: its file, in the package _global_, must set {name}")


def check_targets(config: DictConfig) -> None:
    """Reject an option whose file has no `_target_`, or one that does not exist."""
    for key, option in config.hydra.runtime.choices.items():
        group, _, package = key.partition("@")
        if group not in ("model", "attention", "optimizer", "scheduler", "dataset", "tta"):
            continue
        target = OmegaConf.select(config, f"{package or group}._target_")
        if target is None:
            raise CommandError(f"{key}={option}: its file has no _target_")
        top, module, name = (str(target).partition(".")[0], *str(target).rpartition(".")[::2])
        is_own = (ROOT / top).is_dir() and top
        defined = any(getattr(node, "name", None) == name for node in definitions(module))
        if not module or (is_own and not defined) or (not is_own and not find_spec(top)):
            raise CommandError(f"{key}={option}: _target_ {target} does not exist")


def check_model(config: DictConfig) -> None:
    """Reject lists of unequal length, and a regularizer that the selected model does not support."""
    check_lists(config.model)
    arguments = constructor_arguments(config.model._target_)
    for name, value in OmegaConf.to_container(config.model, resolve=False).items():
        if arguments is None or name in arguments or name == "_target_":
            continue
        handed_on = str(value).startswith("${regularization.")
        what = f"regularization={str(value).strip('${}').split('.')[1]}" if handed_on else f"model.{name}"
        raise CommandError(f"model={config.hydra.runtime.choices.model} does not support {what}")


def check_lists(model: DictConfig) -> None:
    """Reject lists of a model's settings that differ in length."""
    for names, part in ((("widths", "depths"), "stage"), (("kernels", "dilations"), "branch")):
        lists = {name: model[name] for name in names if OmegaConf.is_list(OmegaConf.select(model, name))}
        if len({len(entries) for entries in lists.values()}) > 1:
            given = " and ".join(f"model.{name}={as_typed(list(entries))}" for name, entries in lists.items())
            raise CommandError(f"{given}: must have one entry per {part}")


def constructor_arguments(target: str) -> set[str] | None:
    """The constructor arguments of one of the project's classes, parsed without importing it, or None."""
    module, _, name = target.rpartition(".")
    for node in definitions(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return {argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]}
    return None


def definitions(module: str) -> list[ast.stmt]:
    """The top-level statements of one of the project's modules, parsed without importing it; empty for others."""
    directory = ROOT.joinpath(*module.split("."))
    file = directory / "__init__.py" if directory.is_dir() else directory.with_suffix(".py")
    return ast.parse(file.read_text()).body if file.is_file() else []


def targets(package: str) -> frozenset[str]:
    """Every `_target_` in conf/ within a package: the code that a configuration may name."""
    pattern = re.compile(rf"_target_:\s*({package}\.[\w.]+)")
    return frozenset(target for file in CONF.rglob("*.yaml") for target in pattern.findall(file.read_text()))


def check_together(config: DictConfig) -> None:
    """Reject invalid combinations of settings."""
    trainer, optimizer = config.trainer, config.optimizer
    if trainer.batch_size == "auto" and trainer.gradient_accumulation > 1:
        raise CommandError("trainer.batch_size=auto: cannot be combined with trainer.gradient_accumulation > 1")
    if trainer.compile and "gradient_checkpointing" in config.model and config.model.gradient_checkpointing:
        raise CommandError("trainer.compile=true: cannot be combined with model.gradient_checkpointing=true")
    if trainer.device in {"tf32": ("cpu", "mps"), "fp16": ("cpu",)}.get(trainer.precision, ()):
        raise CommandError(f"trainer.precision={trainer.precision}: not supported with trainer.device={trainer.device}")
    if config.sweep is not None and not re.fullmatch(r"\w[\w.+-]*", config.sweep):
        raise CommandError(f"sweep={as_typed(config.sweep)}: must consist of letters, digits, and . + - _")
    if config.lr_find and config.sweep:
        raise CommandError("lr_find=true: cannot be combined with sweep=, since a range test leaves no result")
    if config.lr_find and config.resume:
        raise CommandError("lr_find=true: cannot be combined with resume=, since a range test starts from new weights")
    if config.init_from is not None and config.resume is None:
        find_weights(config.init_from)  # a resumed run does not need them
    if config.init_only and config.init_from is None:
        raise CommandError("init_only=true: requires init_from=")
    if "nesterov" in optimizer and "momentum" in optimizer and optimizer.nesterov and not optimizer.momentum:
        raise CommandError("optimizer.nesterov=true: requires optimizer.momentum > 0")
    flip = config.augmentation.get("flip")
    if flip and flip.alternating and flip.probability != 0.5:
        raise CommandError(
            f"augmentation.flip.probability={flip.probability:g}: with augmentation.flip.alternating=true each image "
            "is mirrored every other epoch, which requires a probability of 0.5"
        )
    if "study_name" in config.hydra.sweeper:
        check_study(config, config.hydra.sweeper)
    size = check_data(config)
    known = size and trainer.batch_size != "auto"
    make_schedule(config, steps_per_epoch=steps_per_epoch(config, size) if known else math.inf)


def check_study(config: DictConfig, options: DictConfig) -> None:
    """Reject a study whose trials have no objective value, or that cannot run in parallel."""
    if not config.dataset.val_size:
        raise CommandError("dataset.val_size=0: a study would choose on the test images; hold training images out")
    if config.lr_find:
        raise CommandError("lr_find=true: cannot be combined with a study, since a range test leaves no result")
    if not re.fullmatch(r"[a-z]\w*(\+\w+)?:///?[^/].*|[a-z]\w*(\+\w+)?:////.+", options.storage):
        raise CommandError(f"hydra.sweeper.storage={options.storage}: must be a URL, e.g. sqlite:///study.db")
    if options.n_jobs > 1 and config.hydra.runtime.choices["hydra/launcher"] == "basic":
        raise CommandError(f"hydra.sweeper.n_jobs={options.n_jobs}: parallel trials require hydra/launcher=joblib")


def check_data(config: DictConfig) -> int | None:
    """Reject settings that do not fit the data set; return its number of training images, if known."""
    dataset, known = config.dataset, dataset_facts(config.dataset)
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
