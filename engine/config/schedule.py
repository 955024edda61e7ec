"""The learning-rate schedule of a configuration, and the arithmetic of splits, epochs and steps."""

import math
import re
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from engine.run.errors import CommandError


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
