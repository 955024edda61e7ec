"""Autotuning: the largest batch size that fits, and the fastest precision and memory format."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from data.dataset import Splits
from engine.build.batch_size import SMALLEST, largest_batch
from engine.build.objects import plain, state, train_step
from engine.build.precision_benchmark import benchmark_backends, choose_fastest
from engine.device.amp import LACKING
from engine.device.device import Backend, backends, choose_device
from engine.device.memory import keep_freed_memory
from engine.device.seeds import seed_everything
from engine.distributed.ranks import Ranks

MEASURED: dict[str, dict[Backend, float]] = {}  # cached results, so that a sweep over seeds chooses the same


def possible_backends(config: DictConfig, record: dict[str, Any] | None = None) -> list[Backend]:
    """The candidate backends: one, or if a setting is "auto" several, usually the fastest first.

    A resumed run uses those of its checkpoint `record`, unless the setting was changed, or fp32 if this device lacks
    its precision. With trainer.deterministic only the first candidate is returned. Raises DeviceError.
    """
    trainer = config.trainer
    device = choose_device(trainer.device)
    names = {name: trainer[name] for name in ("precision", "memory_format")}
    if record:
        before = record["config"]["trainer"]
        names = {name: record[name] if given == before[name] else given for name, given in names.items()}
        if names["precision"] == record["precision"] in LACKING.get(device.type, ()):
            names["precision"] = "fp32"
    found = backends(device, **names)
    return found[:1] if trainer.deterministic else found


def with_batch_size(
    config: DictConfig, splits: Splits, backend: Backend, record: dict[str, Any] | None = None
) -> DictConfig:
    """The configuration with trainer.batch_size=auto replaced: by that of the checkpoint, or by what fits."""
    if config.trainer.batch_size != "auto":
        return config
    found = config.copy()
    if record:
        found.trainer.batch_size = record["batch_size"]
        return found
    found.trainer.batch_size = SMALLEST
    set_up(found, backend)
    found.trainer.batch_size = largest_batch(
        state(found, splits, backend),
        train_step(found, backend),
        backend,
        image_shape=splits.train.images.shape[1:],
        count=len(splits.train),
    )
    return found


def choose_backend(
    config: DictConfig, splits: Splits, possible: Sequence[Backend], ranks: Ranks
) -> tuple[Backend, dict[Backend, float]]:
    """The fastest of several backends for this run, and the images per second of each; a single one is not measured.

    Rank 0 runs the benchmark for all ranks.
    """
    speeds = {}
    if len(possible) > 1:
        set_up(config, possible[0])  # benchmark under the settings of training
        speeds = ranks.broadcast_from_main(partial(measure_speeds, config, splits, possible, ranks))
    chosen = choose_fastest(speeds) if speeds else possible[0]
    set_up(config, chosen)
    return chosen, speeds


def set_up(config: DictConfig, backend: Backend) -> None:
    """Seed all generators, and apply process-wide settings."""
    seed_everything(config.seed, deterministic=config.trainer.deterministic)
    backend.precision.set_fp32_products()
    if backend.device.type == "cpu":
        keep_freed_memory()


def measure_speeds(
    config: DictConfig, splits: Splits, possible: Sequence[Backend], ranks: Ranks
) -> dict[Backend, float]:
    """Images per second of each backend with a rank's share of the batch, cached per process and kind of run."""
    trainer, image_shape = config.trainer, splits.train.images.shape[1:]
    batch_size = min(-(-trainer.batch_size // (trainer.gradient_accumulation * ranks.size)), len(splits.train))
    kind = repr((plain(config.model), len(splits.classes), image_shape, batch_size, possible, trainer.cuda_graphs))
    if kind not in MEASURED:
        trial, step = state(config, splits, possible[0]), train_step(config, possible[0])
        if ranks.size > 1:
            step = replace(step, graphs=None)  # as in training
        MEASURED[kind] = benchmark_backends(possible, trial, step, image_shape=image_shape, batch_size=batch_size)
    return MEASURED[kind]
