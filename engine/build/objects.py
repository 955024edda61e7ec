"""Build model, data, optimizer and step from a configuration; code below this does not see OmegaConf or Hydra."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from hydra import utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from data.augmentation import in_order
from data.dataset import DataError, Dataset, Images, Splits, split
from data.loader import EvalLoader, Normalize, TrainLoader, share
from engine.config.schedule import learning_rate_scale
from engine.device.cuda_graphs import CudaGraphs
from engine.device.device import Backend
from engine.distributed.ranks import ALONE, Ranks
from engine.distributed.sync_batch_norm import synchronise_batch_norm
from engine.logging.sink import Sink
from engine.run.errors import CommandError, RunError
from engine.training.optimizers.eager import eager
from engine.training.pretrained import Pretrained
from engine.training.state import TrainState, constant
from engine.training.step import TrainStep

PREPARED_ON = 5000  # most training images for data-dependent initialisation


def instantiate(node: Any, *positional: Any, **arguments: Any) -> Any:
    """Instantiate a `_target_` with Hydra, with plain lists and dicts.

    A ValueError of the constructor becomes a CommandError; other errors are re-raised.
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
    """A configuration as plain data, with all interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True)


def sinks(config: DictConfig) -> list[Sink]:
    """The sinks that the configuration chooses for the run's record."""
    return [instantiate(options) for options in config.logger.values()]


def splits(config: DictConfig, *, keep: bool = False) -> Splits:
    """The train, val and test images of a run, in memory.

    With `keep` the data set is cached for the next run of this process. Raises RunError if it cannot be read.
    """
    source = plain(config.dataset)
    protocol = {name: source.pop(name) for name in ("val_size", "train_limit", "test_limit")}
    with data_explained():
        dataset = kept_dataset(json.dumps(source)) if keep else instantiate(source)
        return split(dataset, seed=config.seed, **protocol)


@contextmanager
def data_explained() -> Iterator[None]:
    """Convert DataError within this context to RunError."""
    try:
        yield
    except DataError as error:
        raise RunError(str(error)) from None


@lru_cache(maxsize=1)
def kept_dataset(source: str) -> Dataset:
    """The data set of a dataset config (JSON), cached."""
    return instantiate(json.loads(source))


def network(model: dict[str, Any], *, num_classes: int, in_channels: int) -> nn.Module:
    """The model of a model config, with its initial weights."""
    return instantiate(model, num_classes=num_classes, in_channels=in_channels)


def state(
    config: DictConfig,
    splits: Splits,
    backend: Backend,
    *,
    schedule: Callable[[float], float] = constant,
    pretrained: Pretrained | None = None,
    ranks: Ranks = ALONE,
) -> TrainState:
    """The model on the device with its optimizer, at step 0, with the `pretrained` weights that fit.

    With several `ranks`, batch norm is synchronised if configured. Raises CheckpointError if no weights fit.
    """
    in_channels = splits.train.images.shape[1]
    model = network(plain(config.model), num_classes=len(splits.classes), in_channels=in_channels)
    model.to(backend.device, memory_format=backend.memory_format)
    if hasattr(model, "prepare"):
        normalize = Normalize(splits.mean, splits.std, backend.device, torch.contiguous_format)
        model.prepare(normalize(splits.train.images[:PREPARED_ON].to(backend.device)))
    if pretrained:
        pretrained.load_into(model)
    if ranks.size > 1 and config.trainer.sync_batch_norm:
        synchronise_batch_norm(model)
    return TrainState(
        model=model,
        optimizer=optimizer(config, model),
        scaler=backend.precision.scaler(),
        totals=torch.zeros(3, device=backend.device),
        finite_steps=torch.zeros((), dtype=torch.int64, device=backend.device),
        schedule=schedule,
        averages={
            name: instantiate(average, model=model, max_epochs=config.trainer.max_epochs)
            for name, average in sorted(config.averages.items())
        },
    )


def optimizer(config: DictConfig, model: nn.Module) -> Optimizer:
    """The optimizer, with weight decay on the weights of convolutions and linear layers.

    Norm parameters and biases, which have one dimension, are decayed only with `decay_norms_and_biases`. The learning
    rate is scaled by `learning_rate_scale`.
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
    make = instantiate(options, _partial_=True)
    try:
        built = eager(make.func)([group for group in groups if group["params"]], **make.keywords)
    except ValueError as error:
        raise CommandError(f"{options['_target_']}: {error}") from None
    for group in built.param_groups:
        group["lr"] = group["initial_lr"] = learning_rate_scale(config) * group["lr"]
    return built


def train_step(
    config: DictConfig, backend: Backend, ranks: Ranks = ALONE, train: TrainLoader | None = None
) -> TrainStep:
    """The training step; with several `ranks`, for their shares of the batches of `train`."""
    step, one_gpu = plain(config.step), backend.device.type == "cuda" and ranks.size == 1
    return TrainStep(
        loss=instantiate(config.loss),
        precision=backend.precision,
        gradient_accumulation=config.trainer.gradient_accumulation,
        sam=instantiate(step.pop("sam")) or None,
        skip_nonfinite=config.trainer.on_nonfinite == "skip",
        ranks=ranks,
        global_batch_size=train.images_in if train else None,
        graphs=CudaGraphs() if config.trainer.cuda_graphs and one_gpu else None,
        **step,
    )


@dataclass(frozen=True)
class Loaders:
    """The loaders for training, for evaluation after each epoch (by metric prefix), and for the final test."""

    train: TrainLoader
    eval_loaders: dict[str, EvalLoader]
    test: EvalLoader


def loaders(config: DictConfig, splits: Splits, backend: Backend, ranks: Ranks = ALONE) -> Loaders:
    """Loaders of images on the device, with augmentation for training. Each of several `ranks` gets its share."""
    normalize = Normalize(splits.mean, splits.std, backend.device, backend.memory_format)
    operations = in_order({name: instantiate(operation) for name, operation in config.augmentation.items()})
    with data_explained():
        prepared = [operation.prepared(splits.train.images) for operation in operations.values()]
    train_images = splits.train.to(backend.device)  # one copy, shared with clean_train
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
    eval_loaders = {"val": splits.val} if len(splits.val) else {}
    if config.trainer.clean_train_accuracy:
        eval_loaders["clean_train"] = train_images
    return Loaders(
        train,
        {name: evaluation_loader(config, images, normalize, ranks) for name, images in eval_loaders.items()},
        evaluation_loader(config, splits.test, normalize, ranks),
    )


def evaluation_loader(config: DictConfig, images: Images, normalize: Normalize, ranks: Ranks = ALONE) -> EvalLoader:
    """A loader of all images without augmentation, or of this rank's share."""
    mine = share(len(images), ranks.rank, ranks.size)
    images = Images(images.images[mine], images.labels[mine])
    return EvalLoader(images.to(normalize.mean.device), batch_size=config.trainer.eval_batch_size, normalize=normalize)
