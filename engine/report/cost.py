"""Cost of networks on this device: parameters, multiply-adds, memory, latency, throughput."""

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
from engine.device.compile import raise_recompile_limits
from engine.device.device import describe_device, wait
from engine.device.flops import PeakMemory, count_activations, count_multiply_adds
from engine.device.memory import is_out_of_memory
from engine.plotting.tables import aligned
from engine.report.parts import Part, Section, progress_bar
from engine.run.errors import RunError

TURNS, SECONDS, FEWEST = 10, 0.1, 2  # timing a call: turns that count, and the least time and calls of each

FEW_TURNS = 3  # enough to find the best batch size, whose calls take longer

GAIN = 1.05  # required speedup over the best smaller batch

MOST = 65_536  # largest batch size that is tried

Key = TypeVar("Key")

Call = Callable[[], float]  # returns its duration in seconds


class CompilationFailed(RunError):
    """torch.compile failed; the message is one line that says why."""

    status = 1


@dataclass(frozen=True)
class Speed:
    """Seconds of a call with one image (median and 90th percentile), and images a second in batches of `batch`."""

    latency: float
    latency_90: float
    images_per_second: float
    batch: int


@dataclass(frozen=True)
class Cost:
    """Cost of a network: `weight_bytes` with batch norm's statistics, `peak_bytes` of one inference without them."""

    precision: str
    parameters: int
    multiply_adds: int
    activations: int
    weight_bytes: int
    peak_bytes: int
    speed: Speed
    compiled: Speed | None


def costs(networks: Mapping[str, Trained], *, compiled: bool) -> Part:
    """The cost of networks by name, with the speed after torch.compile if `compiled`. Raises CompilationFailed."""
    device = next(iter(networks.values())).precision.device
    speeds = measure_speeds(networks, compiled=compiled)
    found = {name: network_cost(one, speeds[name, False], speeds.get((name, True))) for name, one in networks.items()}
    notes, rows = cost_notes(device), cost_rows(found)
    content = {"device": describe_device(device), "networks": {name: asdict(one) for name, one in found.items()}}
    return Part("cost", content, [*notes, *aligned(rows)], [Section("Cost", "; ".join(notes), rows)])


def cost_notes(device: torch.device) -> list[str]:
    """Notes that explain the table."""
    allocator = "the most that torch's allocator gave out, workspaces of operators included"
    gain = f"{100 * GAIN - 100:.0f} %"
    return [
        f"on {describe_device(device)}, in the precision of training; all but the last two columns: for one image",
        "activations: outputs of convolutions and linear layers; weights: with batch norm's statistics",
        f"peak memory besides the weights: {allocator if device.type == 'cuda' else 'tensors alive at the same time'}",
        "latency: a call with one image, median and 90th percentile",
        f"images a second: at the last batch size of 1, 2, 4, ... that was {gain} faster than all smaller ones",
    ]


def cost_rows(found: Mapping[str, Cost]) -> list[Sequence[str]]:
    """Table of all networks; compiled ones have a row of their own."""
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
    """The cells with timings."""
    latencies = (f"{1000 * seconds:,.3f}" for seconds in (speed.latency, speed.latency_90))
    return [*latencies, f"{speed.images_per_second:,.0f}", f"{speed.batch:,}"]


def network_cost(trained: Trained, speed: Speed, compiled: Speed | None) -> Cost:
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
    """Peak memory in bytes of inference on one image, without the weights, with the image and its logits.

    On CUDA what torch's allocator gave out, workspaces of operators included; elsewhere the tensors alive at the same
    time, without workspaces.
    """
    device = trained.precision.device
    if device.type != "cuda":
        images = some_images(trained, 1)
        with PeakMemory(trained.model.state_dict().values()) as alive:
            alive.add(images)
            infer(trained, trained.model, images)
        return alive.peak
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    infer(trained, trained.model, some_images(trained, 1))
    return torch.cuda.max_memory_allocated(device) - before


def measure_speeds(networks: Mapping[str, Trained], *, compiled: bool) -> dict[tuple[str, bool], Speed]:
    """The speed of each network, by (name, is compiled).

    A compiled network is timed at the best batch size of the eager one, since each size is compiled separately.
    """
    for trained in networks.values():
        trained.model.eval()
    batches = best_batches({name: partial(timed_call, trained, trained.model) for name, trained in networks.items()})
    sides = {(name, False): trained.model for name, trained in networks.items()}
    if compiled:
        raise_recompile_limits(2 * len(networks))
        sides |= {(name, True): compile_for_inference(one, batches[name]) for name, one in networks.items()}
    latencies, speeds = (
        interleaved_timings(
            {side: timed_call(networks[side[0]], model, size(side[0])) for side, model in sides.items()}
        )
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
    """The best batch size of 1, 2, 4, ... for each network; `callers` create a call for a batch size.

    The search ends after two sizes without a gain; a batch that does not fit into memory is no gain.
    """
    best, fastest = dict.fromkeys(callers, 1), dict.fromkeys(callers, 0.0)
    size, left = 1, list(callers)
    while left and size <= MOST:
        durations = interleaved_timings({name: callers[name](size) for name in left}, turns=FEW_TURNS)
        for name in left:
            speed = size / statistics.median(durations[name])
            if speed > GAIN * fastest[name]:
                best[name], fastest[name] = size, speed
        left = [name for name in left if size < 4 * best[name]]
        size *= 2
    return best


def interleaved_timings(calls: Mapping[Key, Call], *, turns: int = TURNS) -> dict[Key, list[float]]:
    """Seconds of many calls of each, in turns, so that other load on the machine slows all of them alike.

    The first turn, and the first call of each turn, are warm-up and do not count.
    """
    found: dict[Key, list[float]] = {key: [] for key in calls}
    for turn in progress_bar(range(1 + turns), "cost", "turn"):
        for key, call in calls.items():
            call()
            durations: list[float] = []
            while len(durations) < FEWEST or sum(durations) < SECONDS:
                durations.append(call())
            if turn > 0:
                found[key] += durations
    return found


def timed_call(trained: Trained, model: nn.Module, batch: int) -> Call:
    """A timed call of `model`, the trained network or its compiled form, with `batch` images; inf if out of memory."""
    images = some_images(trained, batch)

    def call() -> float:
        trained.precision.set_fp32_products()  # another network may have changed it
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
    """Random images [batch, C, H, W] in the network's memory format."""
    images = torch.randn(batch, *trained.image_shape, device=trained.precision.device)
    return images.contiguous(memory_format=trained.normalize.memory_format)


@torch.no_grad()
def infer(trained: Trained, model: nn.Module, images: Tensor) -> None:
    """Run `model` as evaluation does."""
    with trained.precision.autocast():
        model(images)


def compile_for_inference(trained: Trained, batch: int) -> nn.Module:
    """Compile the network for batches of 1 and `batch` images; on CUDA with CUDA graphs. Raises CompilationFailed."""
    mode = "reduce-overhead" if trained.precision.device.type == "cuda" else "default"
    compiled = torch.compile(trained.model, dynamic=False, mode=mode)
    try:
        for size in (1, batch):
            timed_call(trained, compiled, size)()
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompilationFailed(f"cost_compile=true: {reason}") from error
    return compiled
