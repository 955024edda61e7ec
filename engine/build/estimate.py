"""What a sweep will take, said before its first job: parameters, multiply-adds, memory and time of its networks.

Each distinct network trains for a moment on random images, here and now; those for which there is no time are
estimated by their multiply-adds. It is an estimate: how a data set is read and augmented is not in it, nor what
`precision=auto` may gain, nor that jobs beside each other or another machine are slower or faster.
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
from engine.config.schedule import held_out, known_of, trained_on
from engine.plotting.plot import count, duration, rounded
from engine.run.console import echo
from engine.run.exit import reason
from engine.run.signals import Interrupted, Signals

WORTH = 20_000  # images that a sweep trains on, counted in each epoch: with fewer it is done before it is estimated

SECONDS = 15.0  # for all networks

LONG_ENOUGH = 0.25  # seconds of a step: with more images it would not be measured better

MOST_LINES = 20

FORWARD = 1 / 3  # of the time of a step: the backward pass takes twice as long


@dataclass(frozen=True)
class Kind:
    """Jobs that take the same: their name, their configurations, and of their data set images, classes and side."""

    name: str
    jobs: list[DictConfig]
    size: int
    classes: int
    side: int

    @property
    def config(self) -> DictConfig:
        """Of one of them."""
        return self.jobs[0]

    @property
    def image_passes(self) -> float:
        """Images that a job trains on, counted in each epoch; one that is evaluated counts as a share."""
        config, images = self.config, trained_on(self.config, self.size)
        evaluated = held_out(config, self.size) + images * config.trainer.clean_train_accuracy
        evaluated *= 1 + len(config.averages)
        return config.trainer.max_epochs * (images + FORWARD * evaluated)


@dataclass(frozen=True)
class Cost:
    """Of a network: parameters, multiply-adds; of its training bytes and seconds an image, or None if not tried."""

    parameters: int
    multiply_adds: int
    memory: float | None = None
    seconds: float | None = None


def announce(configs: Sequence[DictConfig]) -> None:
    """Say what the jobs of a sweep that are not finished will take, unless that takes longer than it is worth.

    What cannot be estimated is no mistake here: the job itself will say what is wrong.
    """
    if len(configs) < 2 or not configs[0].sweep_estimate or configs[0].lr_find:
        return
    if configs[0].hydra.runtime.choices["hydra/sweeper"] != "basic":
        return  # which jobs there are shows only later
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
    """Give back what trials of networks have left on a GPU, which jobs in other processes shall have."""
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def kinds(configs: Sequence[DictConfig]) -> list[Kind]:
    """The jobs by what they take, in the order of the command."""
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
    """The words that all these jobs are given, in their order."""
    words = [list(config.hydra.overrides.task) for config in configs]
    return [word for word in words[0] if all(word in others for others in words)] if words else []


def deciding_cost(config: DictConfig) -> dict[str, Any]:
    """The settings that decide how long a job takes and how much memory."""
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    data = {key: value for key, value in plain["dataset"].items() if key not in ("seed", "mirrors", "mean", "std")}
    step = {"optimizer": plain["optimizer"]["_target_"], "sam": bool(plain["step"]["sam"])}
    averages = sorted(plain["averages"])
    return {"model": plain["model"], "trainer": plain["trainer"], "data": data, "step": step, "averages": averages}


def data_facts(config: DictConfig) -> tuple[int, int, int]:
    """Training images, classes and pixels of a side; files are counted, and only what says nothing of itself is read.

    Raises DataError and RunError.
    """
    known = known_of(config.dataset)
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


def costs(found: Sequence[Kind]) -> list[Cost]:
    """What the network of each kind costs. Raises what its jobs would raise."""
    until = time.monotonic() + SECONDS
    known: dict[str, Cost] = {}
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
    return [
        cost if cost.seconds is not None else Cost(cost.parameters, cost.multiply_adds, None, pace * cost.multiply_adds)
        for cost in result
    ]


def counted(kind: Kind) -> Cost:
    """What follows from the network alone, which needs no memory for that."""
    import torch

    from engine.build import objects
    from engine.device import flops

    with torch.device("meta"):
        model = objects.network(objects.plain(kind.config.model), num_classes=kind.classes, in_channels=3)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, flops.count_multiply_adds(model, torch.Size((3, kind.side, kind.side))))


def measured(kind: Kind) -> Cost:
    """The cost of a network that is trained for a moment, with the first of the ways to compute that are possible.

    `memory` is the sum of the weights, their gradients, the optimizer's state, averages, and what a batch (of several
    parts a part) keeps for the backward pass; what operators need meanwhile is not in it.
    """
    import torch

    from data.dataset import Images, Splits
    from engine.build import auto, objects
    from engine.build.batch_size import images, kept_per_image
    from engine.device.cuda_graphs import WARM_UP, CudaGraphs, unheard

    shape, number = torch.Size((3, kind.side, kind.side)), trained_on(kind.config, kind.size)
    some = Images(torch.randint(256, (256, *shape), dtype=torch.uint8), torch.arange(number) % kind.classes)
    names = [str(label) for label in range(kind.classes)]
    splits = Splits(train=some, val=some, test=some, classes=names, mean=[0.5] * 3, std=[0.25] * 3)
    backend = auto.possible_backends(kind.config)[0]
    config = auto.with_batch_size(kind.config, splits, backend)
    auto.set_up(config, backend)
    state, step = objects.state(config, splits, backend), objects.train_step(config, backend)
    step = replace(step, graphs=CudaGraphs(log=unheard) if step.graphs else None)
    per_image = kept_per_image(state, replace(step, micro_batches=1), backend, image_shape=shape)
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
        *_, took = (seconds(size) for _ in range(WARM_UP + 2))  # of which the last is nothing but replayed
    else:
        seconds(size)  # the first time of everything costs more
        few = took = seconds(size)
        while took < LONG_ENOUGH and size < most:
            size = min(4 * size, most)
            took = seconds(size)
        if size > 2:
            took = min(took, seconds(size))
            took += max(took - few, 0) / (size - 2) * (most - size)  # the update costs the same with any batch
            size = most
    weights = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    gradients = sum(parameter.nbytes for parameter in state.model.parameters() if parameter.requires_grad)
    memories = [value for memory in state.optimizer.state.values() for value in memory.values()]
    memory = sum(value.nbytes for value in memories if isinstance(value, torch.Tensor))
    memory += weights * (1 + len(config.averages)) + gradients
    memory += per_image * math.ceil(config.trainer.batch_size / config.trainer.micro_batches)
    known = counted(kind)
    return Cost(known.parameters, known.multiply_adds, memory, took / size)


def lines(found: Sequence[Kind], costs: Sequence[Cost], jobs: int) -> list[str]:
    """The estimate as text."""
    todo = sum(len(kind.jobs) for kind in found)
    done = f" of {jobs}, the others are finished" if todo < jobs else ""
    text = [f"{todo} jobs{done}; about, on this machine:"]
    for kind, cost in list(zip(found, costs, strict=True))[:MOST_LINES]:
        memory = f"{spoken_bytes(cost.memory)} to train, " if cost.memory else "by that "
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


def spoken_bytes(number: float) -> str:
    """Memory with two digits."""
    return f"{rounded(number / 1e6, 2)} MB" if number < 1e9 else f"{rounded(number / 1e9, 2)} GB"
