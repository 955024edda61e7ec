"""From a checked configuration to the objects that train: the last place that knows OmegaConf and Hydra."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from hydra import compose, utils
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from data.augmentation import in_order
from data.dataset import DataError, Dataset, Images, Splits, split
from data.loader import EvalLoader, Normalize, TrainLoader, share
from engine import study
from engine.batch_size import SMALLEST, largest_batch
from engine.check import CONF, CommandError, find_weights, learning_rate_scale, make_schedule, targets
from engine.checkpoint import CheckpointError, Checkpoints, chosen_weights, described, read_newest
from engine.claims import MOST_COUNTED, is_whole
from engine.compiler import compile_network, optimizers_without_compiler
from engine.distributed import ALONE, Ranks, synchronise_batch_norm
from engine.errors import RunError
from engine.fastest import fastest, try_out
from engine.graphs import CudaGraphs
from engine.machine import LACKING, Machine, Precision, choose_device, machines
from engine.memory import keep_freed_memory
from engine.pretrained import Pretrained, read_pretrained
from engine.rundir import RunDirectory
from engine.runtime import seed_everything, versions
from engine.settings import leaves
from engine.state import TrainState
from engine.step import TrainStep
from engine.tta import Views, as_it_is, mean_logits

# A run is done, not what it is.
HOW = {"resume", "resume_force", "sweep", "sweep_on_error", "sweep_jobs_per_gpu", "sweep_estimate"}
PREPARED_ON = 5000  # training images, at most, that a network may look at to set its first weights
TRIED: dict[str, dict[Machine, float]] = {}  # in this process: the runs of a sweep over seeds shall choose alike


def instantiate(node: Any, *positional: Any, **arguments: Any) -> Any:
    """What Hydra builds from a `_target_`, with plain lists and dicts.

    A value that its owner refuses (ValueError) is a CommandError; other errors come as they were raised.
    """
    try:
        return utils.instantiate(node, *positional, **arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise CommandError(f"{node['_target_']}: {error.__cause__}") from None
        if re.match("Error (loading|locating)", str(error)):
            raise CommandError(str(error)) from None
        raise error.__cause__ or error from None


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain data, with all references resolved."""
    return OmegaConf.to_container(config, resolve=True)


def possible_machines(config: DictConfig, record: dict[str, Any] | None = None) -> list[Machine]:
    """The ways to compute that are left open: one, or where something is "auto" first what mostly is fastest.

    A run goes on as its checkpoint `record` says, unless a setting has changed since; where it comes from a GPU
    whose precision this device lacks, in fp32. With trainer.deterministic the first way is the only one.
    Raises DeviceError.
    """
    trainer = config.trainer
    device = choose_device(trainer.device)
    names = {name: trainer[name] for name in ("precision", "memory_format")}
    if record:
        before = record["config"]["trainer"]
        names = {name: record[name] if given == before[name] else given for name, given in names.items()}
        if names["precision"] == record["precision"] in LACKING.get(device.type, ()):
            names["precision"] = "fp32"
    found = machines(device, **names)
    return found[:1] if trainer.deterministic else found


def with_batch_size(
    config: DictConfig, splits: Splits, machine: Machine, record: dict[str, Any] | None = None
) -> DictConfig:
    """The configuration with a number for trainer.batch_size where that is "auto": as on record, or what fits."""
    if config.trainer.batch_size != "auto":
        return config
    found = config.copy()
    if record:
        found.trainer.batch_size = record["batch_size"]
        return found
    found.trainer.batch_size = SMALLEST
    set_up(found, machine)
    found.trainer.batch_size = largest_batch(
        state(found, splits, machine),
        train_step(found, machine),
        machine,
        image_shape=splits.train.images.shape[1:],
        count=len(splits.train),
    )
    return found


def choose_machine(
    config: DictConfig, splits: Splits, possible: Sequence[Machine], ranks: Ranks
) -> tuple[Machine, dict[Machine, float]]:
    """The fastest of several ways to compute this run, with the images a second of each; one is taken as it is.

    The first of several ranks tries them, for all.
    """
    speeds = {}
    if len(possible) > 1:
        set_up(config, possible[0])  # so that they are tried under the settings that hold in training
        speeds = ranks.of_first(partial(speeds_of, config, splits, possible, ranks))
    chosen = fastest(speeds) if speeds else possible[0]
    set_up(config, chosen)
    return chosen, speeds


def set_up(config: DictConfig, machine: Machine) -> None:
    """Seed all generators, and make the settings that hold for the whole process."""
    seed_everything(config.seed, deterministic=config.trainer.deterministic)
    machine.precision.set_fp32_products()
    if machine.device.type == "cpu":
        keep_freed_memory()


def speeds_of(config: DictConfig, splits: Splits, possible: Sequence[Machine], ranks: Ranks) -> dict[Machine, float]:
    """Images a second of each way with a rank's share of the batch, tried once a process for each kind of run."""
    trainer, image_shape = config.trainer, splits.train.images.shape[1:]
    batch_size = min(-(-trainer.batch_size // (trainer.micro_batches * ranks.size)), len(splits.train))
    kind = repr((plain(config.model), len(splits.classes), image_shape, batch_size, possible, trainer.cuda_graphs))
    if kind not in TRIED:
        trial, step = state(config, splits, possible[0]), train_step(config, possible[0])
        if ranks.size > 1:
            step = replace(step, graphs=None)  # as in training
        TRIED[kind] = try_out(possible, trial, step, image_shape=image_shape, batch_size=batch_size)
    return TRIED[kind]


def splits(config: DictConfig, *, keep: bool = False) -> Splits:
    """The images that a run trains, validates and tests on, in memory.

    With `keep` the data set stays there for the next run of this process, which then need not read it again.
    Raises RunError where they cannot be read.
    """
    source = plain(config.dataset)
    protocol = {name: source.pop(name) for name in ("val_size", "train_limit", "test_limit")}
    with data_explained():
        dataset = kept_dataset(json.dumps(source)) if keep else instantiate(source)
        return split(dataset, seed=config.seed, **protocol)


@contextmanager
def data_explained() -> Iterator[None]:
    """Within, what is wrong with the data raises RunError."""
    try:
        yield
    except DataError as error:
        raise RunError(str(error)) from None


@lru_cache(maxsize=1)
def kept_dataset(source: str) -> Dataset:
    """The data set that a dataset group (JSON) names."""
    return instantiate(json.loads(source))


def network(model: dict[str, Any], *, num_classes: int, in_channels: int) -> nn.Module:
    """The network of a model group, with its initial weights."""
    return instantiate(model, num_classes=num_classes, in_channels=in_channels)


def restored(
    model: dict[str, Any], weights: dict[str, torch.Tensor], *, num_classes: int, in_channels: int
) -> nn.Module:
    """The network of a model group that stands in a file, with its weights.

    Raises CheckpointError if it asks for code that is not this project's, and what torch raises if they do not fit.
    """
    require_own_code(model, targets("models"))
    built = network(model, num_classes=num_classes, in_channels=in_channels)
    built.load_state_dict(weights)
    return built


def state(
    config: DictConfig,
    splits: Splits,
    machine: Machine,
    *,
    pretrained: Pretrained | None = None,
    ranks: Ranks = ALONE,
) -> TrainState:
    """The network on the device with its optimizer, at step 0; with those of the `pretrained` weights that fit.

    For several `ranks`, as their configuration says. Raises CheckpointError where no weights fit.
    """
    in_channels = splits.train.images.shape[1]
    model = network(plain(config.model), num_classes=len(splits.classes), in_channels=in_channels)
    model.to(machine.device, memory_format=machine.memory_format)
    if hasattr(model, "prepare"):
        normalize = Normalize(splits.mean, splits.std, machine.device, torch.contiguous_format)
        model.prepare(normalize(splits.train.images[:PREPARED_ON].to(machine.device)))
    if pretrained:
        pretrained.give_to(model)
    if ranks.size > 1 and config.trainer.sync_batch_norm:
        synchronise_batch_norm(model)
    return TrainState(
        model=model,
        optimizer=optimizer(config, model),
        scaler=machine.precision.scaler(),
        totals=torch.zeros(3, device=machine.device),
        finite_steps=torch.zeros((), dtype=torch.int64, device=machine.device),
        averages={
            name: instantiate(average, model=model, max_epochs=config.trainer.max_epochs)
            for name, average in sorted(config.averages.items())
        },
    )


def optimizer(config: DictConfig, model: nn.Module) -> Optimizer:
    """The optimizer, with weight decay on the weights of convolutions and fully connected layers.

    Norms' scales and shifts and all biases, which have one dimension, are decayed only on request. The
    learning rate is that of the configuration times a power of the batch's relative size.
    """
    options = plain(config.optimizer)
    decay = options.pop("weight_decay", 0.0)
    decay_all = options.pop("decay_norms_and_biases", False)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": decay},
        {"params": others, "weight_decay": decay if decay_all else 0.0},
    ]
    optimizers_without_compiler()
    # By position: by name OmegaConf would wrap them, and hold weights and optimizer until the next garbage collection.
    built = instantiate(options, [group for group in groups if group["params"]])
    for group in built.param_groups:
        group["lr"] = group["initial_lr"] = learning_rate_scale(config) * group["lr"]
    return built


def train_step(
    config: DictConfig, machine: Machine, ranks: Ranks = ALONE, train: TrainLoader | None = None
) -> TrainStep:
    """What happens to a batch: to one of `train`, where it is shared among `ranks`."""
    step, one_gpu = plain(config.step), machine.device.type == "cuda" and ranks.size == 1
    return TrainStep(
        loss=instantiate(config.loss),
        precision=machine.precision,
        micro_batches=config.trainer.micro_batches,
        sam=instantiate(step.pop("sam")) or None,
        skip_nonfinite=config.trainer.on_nonfinite == "skip",
        ranks=ranks,
        whole=train.images_in if train else None,
        graphs=CudaGraphs() if config.trainer.cuda_graphs and one_gpu else None,
        **step,
    )


@dataclass(frozen=True)
class Loaders:
    """Batches for training, and for evaluation after each epoch (by what the figures are called) and at the end."""

    train: TrainLoader
    after_epoch: dict[str, EvalLoader]
    test: EvalLoader


def loaders(config: DictConfig, splits: Splits, machine: Machine, ranks: Ranks = ALONE) -> Loaders:
    """Batches from images on the device; those for training are augmented. Each of several `ranks` gets its share."""
    normalize = Normalize(splits.mean, splits.std, machine.device, machine.memory_format)
    operations = in_order({name: instantiate(operation) for name, operation in config.augmentation.items()})
    with data_explained():
        prepared = [operation.prepared(splits.train.images) for operation in operations.values()]
    train_images = splits.train.to(machine.device)  # once, also where they are evaluated as well
    train = TrainLoader(
        train_images,
        batch_size=config.trainer.batch_size,
        operations=prepared,
        mixings=[instantiate(mixing) for _, mixing in sorted(config.mixing.items())],
        normalize=normalize,
        num_classes=len(splits.classes),
        seed=config.seed,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    after_epoch = {"val": splits.val} if len(splits.val) else {}
    if config.trainer.clean_train_accuracy:
        after_epoch["clean_train"] = train_images
    return Loaders(
        train,
        {name: evaluation_loader(config, images, normalize, ranks) for name, images in after_epoch.items()},
        evaluation_loader(config, splits.test, normalize, ranks),
    )


def evaluation_loader(config: DictConfig, images: Images, normalize: Normalize, ranks: Ranks = ALONE) -> EvalLoader:
    """Batches of all images as they are, or of the share of one of several ranks."""
    mine = share(len(images), ranks.rank, ranks.size)
    images = Images(images.images[mine], images.labels[mine])
    return EvalLoader(images.to(normalize.mean.device), batch_size=config.trainer.eval_batch_size, normalize=normalize)


def judge(sweeper: DictConfig) -> Callable[[Sequence[dict[str, Any]]], None]:
    """What decides before each epoch whether a run goes on: its study, if it is a trial of one."""
    options = plain(sweeper)
    if options.get("trial") is None:
        return study.nobody
    names = ("storage", "study_name", "trial", "pruner", "n_startup_trials", "n_warmup_epochs")
    return study.judge(**{name: options[name] for name in names})


def description(config: DictConfig, splits: Splits, machine: Machine, train: TrainLoader) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "config": plain(config),
        "classes": list(splits.classes),
        "image_shape": list(splits.train.images.shape[1:]),
        "mean": list(splits.mean),
        "std": list(splits.std),
        "precision": machine.precision.name,
        "memory_format": machine.memory_format_name,
        "batch_size": train.batch_size,
        "steps_per_epoch": len(train),
        "versions": versions(),
    }


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of.

    `speeds` are the images a second of the ways to compute that were tried, `views` what the network sees of a
    test image.
    """

    machine: Machine
    speeds: dict[Machine, float]
    splits: Splits
    state: TrainState
    loaders: Loaders
    train_step: TrainStep
    views: Views
    checkpoints: Checkpoints
    ranks: Ranks


def parts(config: DictConfig, run: RunDirectory, *, keep_data: bool, ranks: Ranks | None = None) -> Parts:
    """Build a run, or what one of `ranks` has of it; one that is resumed is where its last checkpoint was taken.

    With `keep_data` the data set stays in memory for the next run of this process. Raises RunError.
    """
    ranks = ranks or ALONE
    saved, _ = ranks.of_first(lambda: read_newest(run) if config.resume else (None, None))
    with described():
        possible = possible_machines(config, saved)  # before the data are read, or even downloaded
    begins_anew = saved is None and config.init_from is not None
    pretrained = read_pretrained(find_weights(config.init_from)) if begins_anew else None
    images = splits(config, keep=keep_data)
    given, config = config, with_batch_size(config, images, possible[0], saved)
    machine, speeds = choose_machine(config, images, possible, ranks)
    training = state(config, images, machine, pretrained=pretrained, ranks=ranks)
    batches = loaders(config, images, machine, ranks)
    step = train_step(config, machine, ranks, batches.train)
    training.schedule = make_schedule(config, steps_per_epoch=len(batches.train))
    trainer = config.trainer
    checkpoints = Checkpoints(
        run,
        description(given, images, machine, batches.train),
        minutes=trainer.checkpoint_minutes,
        steps=trainer.checkpoint_every_steps,
        ranks=ranks,
    )
    ranks.seed(config.seed, deterministic=trainer.deterministic)
    if saved:
        with described():
            checkpoints.resume(saved, training, force=config.resume_force)
    if ranks.size > 1:
        some = batches.train.normalize(batches.train.images.images[:2])
        training.replica = ranks.replica(training.model, some)
    if trainer.compile:
        compile_network(training.model)
    return Parts(
        machine=machine,
        speeds=speeds,
        splits=images,
        state=training,
        loaders=batches,
        train_step=step,
        views=instantiate(config.tta),
        checkpoints=checkpoints,
        ranks=ranks,
    )


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint, the name of its weights among those in there, and what it needs to be used.

    `image_shape` is that of the images it was trained on, (C, H, W); `tta` what its `views` are called.
    """

    model: nn.Module
    weights: str
    classes: Sequence[str]
    image_shape: Sequence[int]
    normalize: Normalize
    precision: Precision
    views: Views
    tta: str


def trained(checkpoint: dict[str, Any], *, weights: str | None, device: str, tta: DictConfig | None = None) -> Trained:
    """Rebuild the network that a checkpoint describes, without reading any images.

    `weights` are "model" or the name of an average, None those that count (`result_weights`); `tta` is an option
    of that group, None that of the training. A device that lacks the precision of the training computes in fp32.
    Raises CheckpointError if the checkpoint asks for code that is not this project's, or does not describe what it
    holds.
    """
    with described():
        saved = checkpoint["config"]
        require_own_code(saved["tta"], targets("engine.tta"))
        config = OmegaConf.create(saved)
        config.trainer.device = device
        here = possible_machines(config, checkpoint)[0]
        set_up(config, here)
        classes, image_shape = checkpoint["classes"], checkpoint["image_shape"]
        name, values = chosen_weights(checkpoint, weights)
        model = restored(saved["model"], values, num_classes=len(classes), in_channels=image_shape[0])
        model.to(here.device, memory_format=here.memory_format)
        normalize = Normalize(checkpoint["mean"], checkpoint["std"], here.device, here.memory_format)
        chosen = saved["tta"] if tta is None else plain(tta)
        views, called = instantiate(chosen), called_in("tta", chosen)
        found = Trained(model, name, classes, image_shape, normalize, here.precision, views, called)
        answer_to_black(found if tta is None else replace(found, views=as_it_is))
        return found


@torch.no_grad()
def answer_to_black(trained: Trained) -> torch.Tensor:
    """The logits [1, K] of a black image of the shape that a checkpoint says; raises what comes of settings at odds."""
    black = torch.zeros(1, *trained.image_shape, device=trained.precision.device)
    with trained.precision.autocast():
        return mean_logits(trained.model.eval(), trained.normalize(black), trained.views)


@dataclass(frozen=True)
class Unseen:
    """Images that a network was not trained on: those to test it on, and those that were held out, maybe none."""

    test: EvalLoader
    val: EvalLoader


def unseen(checkpoint: dict[str, Any], trained: Trained, *, eval_batch_size: int | None, root: str | None) -> Unseen:
    """The images that the training with this checkpoint did not use; where an argument is None, as they were then.

    Raises CheckpointError if that data set has other classes, no test images or ones of another shape, or is not
    described, and RunError if it cannot be read.
    """
    with described():
        saved = checkpoint["config"]
        require_own_code(saved["dataset"], targets("data"))
        config = OmegaConf.create(saved)
        if root is not None:
            if "root" not in config.dataset:
                raise CheckpointError(f"root={root}: the data set of this run is not read from a directory")
            config.dataset.root = root
        if eval_batch_size is not None:
            config.trainer.eval_batch_size = eval_batch_size
        if not is_whole(config.trainer.eval_batch_size, 1, MOST_COUNTED):
            raise CheckpointError(f"the checkpoint says eval_batch_size={config.trainer.eval_batch_size}")
        images = splits(config)
        if list(images.classes) != trained.classes:
            raise CheckpointError(f"the data set has the classes {images.classes}, the network knows {trained.classes}")
        count, *shape = images.test.images.shape
        if shape != list(trained.image_shape) or count == 0:
            there = f"{count} test images of {shape}"
            raise CheckpointError(f"the data set has {there}, the network was trained on {trained.image_shape}")
        test, val = (evaluation_loader(config, some, trained.normalize) for some in (images.test, images.val))
        return Unseen(test, val)


def every_tta() -> dict[str, Views]:
    """Each option of the group tta by its name, within a command that Hydra runs."""
    options = GlobalHydra.instance().config_loader().get_group_options("tta")
    return {option: instantiate(compose("evaluate", [f"tta={option}"]).tta) for option in options}


def called_in(group: str, values: dict[str, Any]) -> str:
    """The option of a group that has these values or, where none does, what they build and with which values."""
    for file in sorted((CONF / group).glob("*.yaml")):
        if plain(OmegaConf.load(file)) == values:
            return file.stem
    options = ", ".join(f"{key}={value}" for key, value in values.items() if not key.startswith("_"))
    return f"{values['_target_'].rpartition('.')[2]} ({options})"


def require_own_code(group: Any, allowed: frozenset[str]) -> None:
    """Refuse a group of settings out of a file that builds nothing, names code beyond `allowed`, or has references."""
    if not isinstance(group, dict) or "_target_" not in group:
        raise CheckpointError("the checkpoint does not describe what it holds: a group of its settings builds nothing")
    refuse_foreign(group, allowed)


def refuse_foreign(node: Any, allowed: frozenset[str]) -> None:
    """Refuse settings that name code beyond `allowed`, or that refer to anything."""
    if isinstance(node, dict):
        if "_target_" in node and node["_target_"] not in allowed:
            raise CheckpointError(f"the checkpoint asks for {node['_target_']}, which conf/ does not name: refused")
        node = list(node.values())
    if isinstance(node, list):
        for member in node:
            refuse_foreign(member, allowed)
    elif isinstance(node, str) and "${" in node:
        raise CheckpointError(f"the checkpoint's configuration holds the reference {node}: refused")


def hyperparameters(
    config: DictConfig, choices: dict[str, Any], overrides: Sequence[str]
) -> dict[str, bool | int | float | str]:
    """What one compares runs by, flat, as TensorBoard takes it.

    The option of each group (`choices`), the few settings that everybody asks for, and whatever the
    command line set: TensorBoard shows the first few columns, so that the rest would bury these.
    """
    settings = dict(leaves(plain(config)))
    asked_for = {"seed", "optimizer.lr", "trainer.batch_size", "trainer.max_epochs"}
    asked_for |= {override.partition("=")[0].lstrip("+") for override in overrides} - HOW
    options = {group: option for group, option in choices.items() if group != "expected"}
    shown = options | {name: settings[name] for name in sorted(asked_for & settings.keys())}
    return {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in shown.items()}
