"""Estimate the cost of a sweep before its first job: parameters, multiply-adds, memory and time of its models.

Each distinct model trains a few steps on random images on this device; when time runs out, the others are estimated
from their multiply-adds. The estimate ignores data loading, augmentation, the gain of `precision=auto`, and the
effect of parallel jobs or other hardware.
"""

import gc
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.config.identity import is_finished
from engine.config.schedule import dataset_facts, held_out, images_per_epoch
from engine.plotting.plot import count, duration, rounded
from engine.run.console import echo
from engine.run.exit import reason
from engine.run.signals import Interrupted, Signals

WORTH = 20_000  # image passes of a sweep: a smaller one takes less time than its estimate

SECONDS = 15.0  # for all models

LONG_ENOUGH = 0.25  # seconds of a step, enough for a precise measurement

MOST_LINES = 20

FORWARD = 1 / 3  # of the time of a step: the backward pass takes twice as long


@dataclass(frozen=True)
class Kind:
    """Jobs of equal cost: their name, their configurations, and their data set's images, classes and image size."""

    name: str
    jobs: list[DictConfig]
    size: int
    classes: int
    side: int

    @property
    def config(self) -> DictConfig:
        """The configuration of the first job."""
        return self.jobs[0]

    @property
    def image_passes(self) -> float:
        """Training images over all epochs of a job, plus evaluated images weighted by the cost of a forward pass."""
        config, images = self.config, images_per_epoch(self.config, self.size)
        evaluated = held_out(config, self.size) + images * config.trainer.clean_train_accuracy
        evaluated *= 1 + len(config.averages)
        return config.trainer.max_epochs * (images + FORWARD * evaluated)


@dataclass(frozen=True)
class TrainingCost:
    """A model's parameters, multiply-adds, training memory in bytes, and seconds per image; None: not measured."""

    parameters: int
    multiply_adds: int
    memory: float | None = None
    seconds: float | None = None


def announce(configs: Sequence[DictConfig]) -> None:
    """Print the estimated cost of the unfinished jobs of a sweep, unless the sweep is too small.

    A failed estimate is not an error: the job itself will report what is wrong.
    """
    if len(configs) < 2 or not configs[0].sweep_estimate or configs[0].lr_find:
        return
    if configs[0].hydra.runtime.choices["hydra/sweeper"] != "basic":
        return  # the sweeper chooses the jobs later
    todo = [config for config in configs if not is_finished(config)]
    try:
        with Signals():
            found = kinds(todo)
            if sum(kind.image_passes * len(kind.jobs) for kind in found) >= WORTH:
                echo("\n".join(lines(found, costs(found), len(configs))))
    except Interrupted as interruption:
        raise SystemExit(interruption.exit_status) from None
    except Exception as error:
        echo(f"no estimate: {' '.join(reason(error).split())}")
    finally:
        release_gpu()


def release_gpu() -> None:
    """Free the GPU memory of the measurements, for jobs in other processes."""
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def kinds(configs: Sequence[DictConfig]) -> list[Kind]:
    """The jobs grouped by cost, in the order of the command."""
    groups: dict[str, list[DictConfig]] = {}
    for config in configs:
        groups.setdefault(json.dumps(deciding_cost(config), sort_keys=True), []).append(config)
    everywhere = common_words(configs)
    found = []
    for jobs in groups.values():
        said = [word for word in common_words(jobs) if word not in everywhere]
        name = " ".join(said) or f"model={jobs[0].hydra.runtime.choices.model}"
        found.append(Kind(name, jobs, *data_facts(jobs[0])))
    return found


def common_words(configs: Sequence[DictConfig]) -> list[str]:
    """The overrides that all jobs share, in order."""
    words = [list(config.hydra.overrides.task) for config in configs]
    return [word for word in words[0] if all(word in others for others in words)] if words else []


def deciding_cost(config: DictConfig) -> dict[str, Any]:
    """The settings that determine a job's time and memory."""
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    data = {key: value for key, value in plain["dataset"].items() if key not in ("seed", "mirrors", "mean", "std")}
    step = {"optimizer": plain["optimizer"]["_target_"], "sam": bool(plain["step"]["sam"])}
    averages = sorted(plain["averages"])
    return {"model": plain["model"], "trainer": plain["trainer"], "data": data, "step": step, "averages": averages}


def data_facts(config: DictConfig) -> tuple[int, int, int]:
    """The number of training images, of classes, and the image size in pixels; the data set is read only if needed.

    Raises DataError and RunError.
    """
    known = dataset_facts(config.dataset)
    if config.dataset._target_ == "data.folder.folder":
        from data.folder import SUFFIXES, class_names, visible

        base = Path(os.path.expanduser(config.dataset.root)) / "train"
        names = class_names(base)
        files = sum(os.path.splitext(file)[1].lower() in SUFFIXES for name in names for file in visible(base / name))
        return files, len(names), config.dataset.image_size
    if known.keys() >= {"train_size", "classes", "image_size"}:
        return known["train_size"], known["classes"], known["image_size"]
    from engine.build import objects

    splits = objects.splits(config, keep=True)
    return len(splits.train) + len(splits.val), len(splits.classes), splits.train.images.shape[-1]


def costs(found: Sequence[Kind]) -> list[TrainingCost]:
    """The cost of each kind. Raises what its jobs would raise."""
    until = time.monotonic() + SECONDS
    known: dict[str, TrainingCost] = {}
    result = []
    for kind in found:
        decides = deciding_cost(kind.config)
        decides["trainer"].pop("max_epochs")
        parts = [decides[name] for name in ("model", "trainer", "step", "averages")]
        key = json.dumps([*parts, kind.classes, kind.side])
        if key not in known:
            known[key] = measured(kind) if not known or time.monotonic() < until else counted(kind)
        result.append(known[key])
    tried = [cost for cost in result if cost.seconds is not None]
    pace = sum(cost.seconds for cost in tried) / sum(cost.multiply_adds for cost in tried)
    return [cost if cost.seconds is not None else replace(cost, seconds=pace * cost.multiply_adds) for cost in result]


def counted(kind: Kind) -> TrainingCost:
    """The cost without measurement: parameters and multiply-adds, from a model on the meta device."""
    import torch

    from engine.build import objects
    from engine.device import flops

    with torch.device("meta"):
        model = objects.network(objects.plain(kind.config.model), num_classes=kind.classes, in_channels=3)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return TrainingCost(parameters, flops.count_multiply_adds(model, torch.Size((3, kind.side, kind.side))))


def measured(kind: Kind) -> TrainingCost:
    """The cost of a model, measured in a few training steps on the first candidate backend.

    `memory` is the sum of the weights, gradients, optimizer state, averages, and the tensors that a (micro-)batch
    saves for backward, without operators' workspaces.
    """
    import torch

    from data.dataset import Images, Splits
    from engine.build import autotune, objects
    from engine.build.batch_size import images, kept_per_image
    from engine.device.cuda_graphs import WARM_UP, CudaGraphs, discard_log

    shape, number = torch.Size((3, kind.side, kind.side)), images_per_epoch(kind.config, kind.size)
    some = Images(torch.randint(256, (256, *shape), dtype=torch.uint8), torch.arange(number) % kind.classes)
    names = [str(label) for label in range(kind.classes)]
    splits = Splits(train=some, val=some, test=some, classes=names, mean=[0.5] * 3, std=[0.25] * 3)
    backend = autotune.possible_backends(kind.config)[0]
    config = autotune.with_batch_size(kind.config, splits, backend)
    autotune.set_up(config, backend)
    state, step = objects.state(config, splits, backend), objects.train_step(config, backend)
    step = replace(step, graphs=CudaGraphs(log=discard_log) if step.graphs else None)
    per_image = kept_per_image(state, replace(step, gradient_accumulation=1), backend, image_shape=shape)
    state.optimizer.zero_grad()

    def seconds(size: int) -> float:
        batch, labels = images(backend, shape, size), torch.zeros(size, dtype=torch.int64, device=backend.device)
        backend.wait()
        begun = time.perf_counter()
        step(state, batch, labels)
        backend.wait()
        return time.perf_counter() - begun

    size, most = 2, min(config.trainer.batch_size, number)
    if backend.device.type == "cuda":
        size = most
        *_, took = (seconds(size) for _ in range(WARM_UP + 2))  # the last one only replays the CUDA graph
    else:
        seconds(size)  # warm-up
        few = took = seconds(size)
        while took < LONG_ENOUGH and size < most:
            size = min(4 * size, most)
            took = seconds(size)
        if size > 2:
            took = min(took, seconds(size))
            took += (
                max(took - few, 0) / (size - 2) * (most - size)
            )  # the optimizer step costs the same for any batch size
            size = most
    weights = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    gradients = sum(parameter.nbytes for parameter in state.model.parameters() if parameter.requires_grad)
    memories = [value for memory in state.optimizer.state.values() for value in memory.values()]
    memory = sum(value.nbytes for value in memories if isinstance(value, torch.Tensor))
    memory += weights * (1 + len(config.averages)) + gradients
    memory += per_image * math.ceil(config.trainer.batch_size / config.trainer.gradient_accumulation)
    known = counted(kind)
    return TrainingCost(known.parameters, known.multiply_adds, memory, took / size)


def lines(found: Sequence[Kind], costs: Sequence[TrainingCost], jobs: int) -> list[str]:
    """The estimate as lines of text."""
    todo = sum(len(kind.jobs) for kind in found)
    done = f" of {jobs}, the others are finished" if todo < jobs else ""
    text = [f"{todo} jobs{done}; estimated on this device:"]
    for kind, cost in list(zip(found, costs, strict=True))[:MOST_LINES]:
        memory = f"{format_bytes(cost.memory)} to train, " if cost.memory else "estimated "
        text.append(
            f"  {len(kind.jobs)} x {kind.name}: {count(cost.parameters, 3)} parameters, "
            f"{count(cost.multiply_adds, 3)} multiply-adds, {memory}"
            f"{duration(cost.seconds * kind.image_passes, 2)} each"
        )
    if len(found) > MOST_LINES:
        text.append(f"  and {len(found) - MOST_LINES} more")
    total = sum(cost.seconds * kind.image_passes * len(kind.jobs) for kind, cost in zip(found, costs, strict=True))
    text.append(
        f"in all {duration(total, 2)}, one job after the other; memory is that of weights, gradients, optimizer, batch"
    )
    return text


def format_bytes(number: float) -> str:
    """A memory size in MB or GB with two significant digits."""
    return f"{rounded(number / 1e6, 2)} MB" if number < 1e9 else f"{rounded(number / 1e9, 2)} GB"
