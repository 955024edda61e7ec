"""The description of a run, logged before its first epoch: options, hyperparameters, device, versions."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from engine.build.objects import plain
from engine.build.training import Parts
from engine.config.identity import leaves
from engine.device.device import describe_device
from engine.device.flops import count_multiply_adds
from engine.device.versions import git_revision, versions
from engine.run.console import logger

# Settings of how a run is started, not hyperparameters.
HOW = {"resume", "resume_force", "sweep", "sweep_on_error", "sweep_jobs_per_gpu", "sweep_estimate"}


def hyperparameters(
    config: DictConfig, choices: dict[str, Any], overrides: Sequence[str]
) -> dict[str, bool | int | float | str]:
    """The hyperparameters for TensorBoard, as a flat dict.

    The option of each config group (`choices`), a few common settings, and the command line's overrides; TensorBoard
    shows only the first few columns, so the other settings are left out.
    """
    settings = dict(leaves(plain(config)))
    asked_for = {"seed", "optimizer.lr", "trainer.batch_size", "trainer.max_epochs"}
    asked_for |= {override.partition("=")[0].lstrip("+") for override in overrides} - HOW
    options = {group: option for group, option in choices.items() if group != "expected"}
    shown = options | {name: settings[name] for name in sorted(asked_for & settings.keys())}
    return {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in shown.items()}


def introduce(choices: dict[str, Any], seed: int, parts: Parts) -> dict[str, Any]:
    """Log the model, data and device of a run, and return these facts as plain data.

    `choices` are the selected options of each config group.
    """
    splits, backend, speeds = parts.splits, parts.backend, parts.speeds
    model, optimizer = parts.state.model, parts.state.optimizer
    facts = {
        **choices,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count_multiply_adds(model, splits.train.images.shape[1:]),
        "train_images": len(splits.train),
        "val_images": len(splits.val),
        "test_images": len(splits.test),
        "classes": len(splits.classes),
        "batch_size": parts.loaders.train.batch_size,
        "lr": optimizer.defaults["lr"],
        "effective_lr": optimizer.param_groups[0]["initial_lr"],
        "seed": seed,
        "device": describe_device(backend.device),
        "processes": parts.ranks.size,
        "precision": backend.precision.name,
        "memory_format": backend.memory_format_name,
        "tried_images_per_second": {str(way): round(speed, 1) for way, speed in speeds.items()},
        "versions": versions(),
        "git_revision": git_revision(),
    }
    logger.info(
        f"{facts['model']}: {facts['params']:,} parameters, {facts['multiply_adds'] / 1e6:,.1f} M multiply-adds"
    )
    logger.info(
        f"{facts['dataset']}: {facts['train_images']:,} images to train on, {facts['val_images']:,} to validate, "
        f"{facts['test_images']:,} to test, {facts['classes']} classes"
    )
    if facts["effective_lr"] != facts["lr"]:
        logger.info(f"learning rate {facts['effective_lr']:.4g}: optimizer.lr={facts['lr']:g}, scaled with the batch")
    versions_and_batch = f"torch {facts['versions']['torch']}, batches of {facts['batch_size']:,}"
    where = f"{facts['device']} in {parts.ranks.size} processes" if parts.ranks.size > 1 else facts["device"]
    logger.info(f"{where}, {backend}, {versions_and_batch}, seed {seed}")
    if speeds:
        others = ", ".join(f"{way} {speed:,.0f}" for way, speed in speeds.items() if way != backend)
        logger.info(f"autotune chose {backend} with {speeds[backend]:,.0f} images/s forward and backward; {others}")
    return facts


def what_computes(facts: dict[str, Any]) -> str:
    """The settings that determine memory use, for the out-of-memory message."""
    return (
        f"batches of {facts['batch_size']} images, model={facts['model']}, {facts['precision']}, on {facts['device']}"
    )
