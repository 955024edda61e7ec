"""What networks cost on this device: counts, memory, latency, throughput."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from engine.build.from_checkpoint import Trained
from engine.device.compile import allow_compilations
from engine.device.device import describe_device, wait
from engine.device.flops import Alive, count_activations, count_multiply_adds
from engine.device.memory import is_out_of_memory
from engine.plotting.tables import aligned
from engine.report.parts import Part, Section, watched
from engine.run.errors import RunError

TURNS, SECONDS, FEWEST = 10, 0.1, 2  # of measuring a latency: turns that count, and in each so long, so many calls

FEW_TURNS = 3  # are enough for the speed of a batch, whose calls take longer

GAIN = 1.05  # so much faster must a batch be than the best smaller one

MOST = 65_536  # images in a batch that is tried

Key = TypeVar("Key")

Call = Callable[[], float]  # works, and returns the seconds that it took


class CompilationFailed(RunError):
    """torch.compile does not work on this machine; the message is one line that says why."""

    status = 1


@dataclass(frozen=True)
class Speed:
    """Seconds of a call with one image, the median and what 90 of 100 calls do not exceed; images a second in batches.

    `batch` is the number of images with which that speed was found.
    """

    latency: float
    latency_90: float
    images_per_second: float
    batch: int


@dataclass(frozen=True)
class Cost:
    """What a network takes; bytes of its weights and statistics, and of what an inference of one image has beside."""

    precision: str
    parameters: int
    multiply_adds: int
    activations: int
    weight_bytes: int
    peak_bytes: int
    speed: Speed
    compiled: Speed | None


def costs(networks: Mapping[str, Trained], *, compiled: bool) -> Part:
    """The networks, by their names, with what they cost, and if asked for the speed that torch.compile gives them.

    Raises CompilationFailed.
    """
    device = next(iter(networks.values())).precision.device
    speeds = measured(networks, compiled=compiled)
    found = {name: counted(one, speeds[name, False], speeds.get((name, True))) for name, one in networks.items()}
    notes, rows = explained(device), cost_rows(found)
    content = {"device": describe_device(device), "networks": {name: asdict(one) for name, one in found.items()}}
    return Part("cost", content, [*notes, *aligned(rows)], [Section("Cost", "; ".join(notes), rows)])


def explained(device: torch.device) -> list[str]:
    """What stands in the table, in words."""
    allocator = "what torch's allocator gave out at most, what operators need within themselves among it"
    gain = f"{100 * GAIN - 100:.0f} %"
    return [
        f"on {describe_device(device)}, in the precision of the training; all but the last two columns: of one image",
        "activations: the numbers that convolutions and linear layers put out; weights: with batch norm's statistics",
        f"peak, beside the weights: {allocator if device.type == 'cuda' else 'tensors that were there at once'}",
        "latency: of a call with one image, the median and the 90th percentile",
        f"images a second: in the last batch of 1, 2, 4, ... that was {gain} faster than all before it",
    ]


def cost_rows(found: Mapping[str, Cost]) -> list[Sequence[str]]:
    """A table of all; a compiled network has a row of its own."""
    counts = ("parameters", "multiply-adds", "activations", "weights, MB", "peak, MB")
    rows: list[Sequence[str]] = [("", "precision", *counts, "latency, ms", "90 %", "images a second", "in batches of")]
    for name, one in found.items():
        numbers = (f"{count:,}" for count in (one.parameters, one.multiply_adds, one.activations))
        megabytes = (f"{size / 1e6:,.2f}" for size in (one.weight_bytes, one.peak_bytes))
        rows.append((name, one.precision, *numbers, *megabytes, *speed_cells(one.speed)))
        if one.compiled:
            rows.append((f"{name}, compiled", one.precision, *[""] * len(counts), *speed_cells(one.compiled)))
    return rows


def speed_cells(speed: Speed) -> list[str]:
    """The cells of the table that are measured by the clock."""
    latencies = (f"{1000 * seconds:,.3f}" for seconds in (speed.latency, speed.latency_90))
    return [*latencies, f"{speed.images_per_second:,.0f}", f"{speed.batch:,}"]


def counted(trained: Trained, speed: Speed, compiled: Speed | None) -> Cost:
    """A network's cost, given its speed."""
    model, image_shape = trained.model, torch.Size(trained.image_shape)
    return Cost(
        precision=trained.precision.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=count_multiply_adds(model, image_shape),
        activations=count_activations(model, image_shape),
        weight_bytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
        peak_bytes=peak_bytes(trained),
        speed=speed,
        compiled=compiled,
    )


def peak_bytes(trained: Trained) -> int:
    """The most bytes that an inference of one image takes beside the weights, the image and its logits among them.

    On CUDA what torch's allocator gave out, workspaces of operators among it; elsewhere the tensors that were there at
    once, without what operators need within themselves.
    """
    device = trained.precision.device
    if device.type != "cuda":
        images = some_images(trained, 1)
        with Alive(trained.model.state_dict().values()) as alive:
            alive.add(images)
            infer(trained, trained.model, images)
        return alive.peak
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    infer(trained, trained.model, some_images(trained, 1))
    return torch.cuda.max_memory_allocated(device) - before


def measured(networks: Mapping[str, Trained], *, compiled: bool) -> dict[tuple[str, bool], Speed]:
    """How fast each network is, by its name and whether it is compiled.

    A compiled network is measured in the batch in which it is fastest as it is: each size is compiled for itself.
    """
    for trained in networks.values():
        trained.model.eval()
    batches = best_batches({name: partial(call_of, trained, trained.model) for name, trained in networks.items()})
    sides = {(name, False): trained.model for name, trained in networks.items()}
    if compiled:
        allow_compilations(2 * len(networks))
        sides |= {(name, True): compile_for_inference(one, batches[name]) for name, one in networks.items()}
    latencies, speeds = (
        in_turns({side: call_of(networks[side[0]], model, size(side[0])) for side, model in sides.items()})
        for size in (lambda name: 1, batches.__getitem__)
    )
    return {
        side: Speed(
            *(float(quantile) for quantile in np.quantile(latencies[side], (0.5, 0.9))),
            images_per_second=batches[side[0]] / statistics.median(speeds[side]),
            batch=batches[side[0]],
        )
        for side in sides
    }


def best_batches(callers: Mapping[str, Callable[[int], Call]]) -> dict[str, int]:
    """For each network, given by what makes its calls of a batch's size, the last of 1, 2, 4, ... that is a gain.

    Two in a row that are none end the search, and so does what does not fit into memory.
    """
    best, fastest = dict.fromkeys(callers, 1), dict.fromkeys(callers, 0.0)
    size, left = 1, list(callers)
    while left and size <= MOST:
        durations = in_turns({name: callers[name](size) for name in left}, turns=FEW_TURNS)
        for name in left:
            speed = size / statistics.median(durations[name])
            if speed > GAIN * fastest[name]:
                best[name], fastest[name] = size, speed
        left = [name for name in left if size < 4 * best[name]]
        size *= 2
    return best


def in_turns(calls: Mapping[Key, Call], *, turns: int = TURNS) -> dict[Key, list[float]]:
    """Seconds of many calls of each, in turns, so that whatever else the machine is doing slows all of them.

    The first turn and the first call of each turn do not count: something is made there, or the caches are another's.
    """
    found: dict[Key, list[float]] = {key: [] for key in calls}
    for turn in watched(range(1 + turns), "cost", "turn"):
        for key, call in calls.items():
            call()
            durations: list[float] = []
            while len(durations) < FEWEST or sum(durations) < SECONDS:
                durations.append(call())
            if turn > 0:
                found[key] += durations
    return found


def call_of(trained: Trained, model: nn.Module, batch: int) -> Call:
    """A call of `model`, which is the trained network or what has come of it, with so many images.

    What does not fit into memory takes for ever.
    """
    images = some_images(trained, batch)

    def call() -> float:
        trained.precision.set_fp32_products()  # which those of another network may have changed
        begun = time.perf_counter()
        try:
            infer(trained, model, images)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        wait(trained.precision.device)
        return time.perf_counter() - begun

    return call


def some_images(trained: Trained, batch: int) -> Tensor:
    """Random images [batch, C, H, W] as the network is given them."""
    images = torch.randn(batch, *trained.image_shape, device=trained.precision.device)
    return images.contiguous(memory_format=trained.normalize.memory_format)


@torch.no_grad()
def infer(trained: Trained, model: nn.Module, images: Tensor) -> None:
    """Let `model` answer as evaluation does."""
    with trained.precision.autocast():
        model(images)


def compile_for_inference(trained: Trained, batch: int) -> nn.Module:
    """The network compiled for one image and for so many, each for itself; on CUDA in torch's own graphs.

    Raises CompilationFailed.
    """
    mode = "reduce-overhead" if trained.precision.device.type == "cuda" else "default"
    compiled = torch.compile(trained.model, dynamic=False, mode=mode)
    try:
        for size in (1, batch):
            call_of(trained, compiled, size)()
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompilationFailed(f"cost_compile=true: {reason}") from error
    return compiled
