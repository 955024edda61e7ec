"""What is chosen by measuring: the batch size that fits and the fastest precision."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from data.dataset import Splits
from engine.build.batch_size import SMALLEST, largest_batch
from engine.build.objects import plain, state, train_step
from engine.build.precision_benchmark import fastest, try_out
from engine.device.device import Backend, backends, choose_device
from engine.device.memory import keep_freed_memory
from engine.device.precision import LACKING
from engine.device.seeds import seed_everything
from engine.distributed.ranks import Ranks

TRIED: dict[str, dict[Backend, float]] = {}  # in this process: the runs of a sweep over seeds shall choose alike


def possible_backends(config: DictConfig, record: dict[str, Any] | None = None) -> list[Backend]:
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
    found = backends(device, **names)
    return found[:1] if trainer.deterministic else found


def with_batch_size(
    config: DictConfig, splits: Splits, backend: Backend, record: dict[str, Any] | None = None
) -> DictConfig:
    """The configuration with a number for trainer.batch_size where that is "auto": as on record, or what fits."""
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
    """The fastest of several ways to compute this run, with the images a second of each; one is taken as it is.

    The first of several ranks tries them, for all.
    """
    speeds = {}
    if len(possible) > 1:
        set_up(config, possible[0])  # so that they are tried under the settings that hold in training
        speeds = ranks.broadcast_from_main(partial(speeds_of, config, splits, possible, ranks))
    chosen = fastest(speeds) if speeds else possible[0]
    set_up(config, chosen)
    return chosen, speeds


def set_up(config: DictConfig, backend: Backend) -> None:
    """Seed all generators, and make the settings that hold for the whole process."""
    seed_everything(config.seed, deterministic=config.trainer.deterministic)
    backend.precision.set_fp32_products()
    if backend.device.type == "cpu":
        keep_freed_memory()


def speeds_of(config: DictConfig, splits: Splits, possible: Sequence[Backend], ranks: Ranks) -> dict[Backend, float]:
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
