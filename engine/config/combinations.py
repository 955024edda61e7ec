"""What is possible alone and impossible together, and the targets of a configuration. Before any data is read."""

import ast
import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from engine.config.options import CONF, ROOT, as_typed
from engine.config.schedule import held_out, known_of, make_schedule, steps_per_epoch
from engine.config.schema import Key
from engine.run.errors import CommandError
from engine.run.paths import find_checkpoints, find_weights, matches, one_or_more

PARTS = ("every_tta", "explain", "robustness", "cost")  # of an evaluation, which are looked at on request

NEEDED_BY_ONNX = ("onnx", "onnxscript", "onnxruntime")  # which are not among the requirements


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
