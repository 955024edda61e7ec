"""The learning-rate schedule of a configuration, and the arithmetic of splits, epochs and steps."""

import math
import re
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from engine.run.errors import CommandError


def dataset_facts(dataset: DictConfig) -> dict[str, int]:
    """What is known of a data set from its config alone: any of train_size, classes and image_size."""
    names = ("train_size", "classes", "image_size")
    known = {name: dataset[name] for name in names if name in dataset and isinstance(dataset[name], int)}
    if dataset._target_ == "data.cifar.cifar10":
        known = {"train_size": 50_000, "classes": 10, "image_size": 32}
    if dataset._target_ == "data.cifar.cifar100":
        known = {"train_size": 50_000, "classes": 20 if dataset.labels == "coarse" else 100, "image_size": 32}
    return known


def held_out(config: DictConfig, size: int) -> int:
    """The number of validation images held out of `size` training images."""
    share = config.dataset.val_size
    return int(share) if share >= 1 else round(share * size)


def steps_per_epoch(config: DictConfig, size: int) -> int:
    """Optimizer steps per epoch for a data set of `size` training images."""
    whole, rest = divmod(images_per_epoch(config, size), config.trainer.batch_size)
    return whole + (rest > 1 or whole == 0)


def images_per_epoch(config: DictConfig, size: int) -> int:
    """The number of images per epoch, out of `size` training images."""
    images = size - held_out(config, size)
    return min(images, config.dataset.train_limit or images)


def learning_rate_scale(config: DictConfig) -> float:
    """The factor of optimizer.lr: a power of batch_size / lr_batch_size."""
    exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.trainer.lr_scaling]
    return (config.trainer.batch_size / config.trainer.lr_batch_size) ** exponent


def make_schedule(config: DictConfig, *, steps_per_epoch: float = math.inf) -> Any:
    """The learning-rate schedule of a configuration with its warm-up: epoch -> factor.

    Without `steps_per_epoch`, a warm-up given in steps has length 0. Raises CommandError for an invalid combination.
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
                f"scheduler.warmup_steps={steps}: must be shorter than trainer.max_epochs={max_epochs} "
                f"of {steps_per_epoch} steps each"
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
