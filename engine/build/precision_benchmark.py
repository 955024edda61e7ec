"""Benchmark precisions and memory formats: the fastest depends on the model, batch size and device."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.device.cuda_graphs import WARM_UP, CudaGraphs, discard_log
from engine.device.device import Backend
from engine.device.memory import is_out_of_memory
from engine.training.state import TrainState
from engine.training.step import TrainStep

ROUNDS, ENOUGH = 4, 0.3  # minimum rounds, and total seconds; the shortest time of each candidate counts

FEWEST, LONG_ENOUGH = 8, 0.05  # images to start with, and the seconds of a pass at which the batch stops growing

TOO_SLOW = 1.5  # times the fastest: a candidate slower than this after two rounds is not measured further

STEADY = 0.75  # largest share of a small batch's time that is assumed independent of the batch size

MARGIN = 1.1  # speedup over an earlier candidate that is needed to replace it, so that runs choose the same


def benchmark_backends(
    backends: Sequence[Backend],
    state: TrainState,
    train_step: TrainStep,
    *,
    image_shape: torch.Size,
    batch_size: int,
) -> dict[Backend, float]:
    """Images per second, forward and backward, of each candidate; 0 if out of memory.

    On a CPU the candidates take turns, so that background load affects all of them, with at most half the training
    batch (at least two images), so that fp32 needs no more memory than the run in 16 bits; the speed of a full batch
    is extrapolated. On a GPU they use full batches, for which cuDNN's autotuning is then done as well.
    The running statistics and memory format of `state` are overwritten, and torch's TF32 setting is that of the last
    candidate.
    """
    device = backends[0].device
    most = max(2, batch_size if device.type == "cuda" else batch_size // 2)  # batch norm needs two values
    images = torch.randn(most, *image_shape, device=device)
    benchmark = Benchmark(state, train_step, images, torch.zeros(most, dtype=torch.int64, device=device))
    state.model.train()
    return sequential(backends, benchmark) if device.type == "cuda" else interleaved(backends, benchmark, batch_size)


@dataclass(frozen=True)
class Benchmark:
    """Times forward and backward passes of a model on fixed images."""

    state: TrainState
    train_step: TrainStep
    images: Tensor
    labels: Tensor

    def apply(self, backend: Backend) -> None:
        """Apply the backend's TF32 setting and memory format."""
        backend.precision.set_fp32_products()
        self.state.model.to(memory_format=backend.memory_format)

    def seconds(self, backend: Backend, images: int, graphs: CudaGraphs | None = None) -> float:
        """The time of a forward and backward pass with `images` images; inf if out of memory."""
        step = replace(self.train_step, precision=backend.precision, gradient_accumulation=1, graphs=graphs)
        try:
            batch = self.images[:images].contiguous(memory_format=backend.memory_format)
            backend.wait()
            begun = time.perf_counter()
            step.gradients(self.state, batch, self.labels[:images])
            backend.wait()
            return time.perf_counter() - begun
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        finally:
            self.state.optimizer.zero_grad()


def interleaved(backends: Sequence[Backend], benchmark: Benchmark, batch_size: int) -> dict[Backend, float]:
    """Images per second of each candidate with a full batch, from alternating passes on two smaller batches.

    Two sizes separate the fixed cost: casting weights to 16 bits and accumulating gradients take the same time for
    any batch size.
    """
    two = sizes(benchmark, backends[0])
    durations = {backend: dict.fromkeys(two, math.inf) for backend in backends}

    def speed(backend: Backend) -> float:
        return extrapolated(durations[backend], batch_size)

    def measure(backend: Backend) -> dict[int, float]:
        benchmark.apply(backend)
        return {images: benchmark.seconds(backend, images) for images in durations[backend]}

    # Warm-up, which also drops candidates that run out of memory.
    left = [backend for backend in backends if max(measure(backend).values()) < math.inf]
    rounds, spent = 0, 0.0
    while left and (rounds < ROUNDS or spent < ENOUGH):
        too_slow = max(map(speed, left)) / TOO_SLOW
        for backend in left:
            if rounds < 2 or speed(backend) > too_slow:
                for images, duration in measure(backend).items():
                    durations[backend][images] = min(durations[backend][images], duration)
                    spent += duration
        rounds += 1
    return {backend: speed(backend) for backend in backends}


def sizes(benchmark: Benchmark, backend: Backend) -> tuple[int, int]:
    """Two batch sizes: the smallest for which a pass takes long enough to measure, and a quarter of it.

    With only two images, both are 2.
    """
    benchmark.apply(backend)
    benchmark.seconds(backend, 2)
    most = len(benchmark.images)
    many = min(FEWEST, most)
    while many < most and benchmark.seconds(backend, many) < LONG_ENOUGH:
        many = min(4 * many, most)
    return max(2, many // 4), many


def extrapolated(seconds: dict[int, float], batch_size: int) -> float:
    """Images per second of a batch, linearly extrapolated from the times of two smaller ones.

    The slope is clamped against noise: at most the larger batch's time per image, at least 1 - `STEADY` of it.
    """
    (few, short), (many, long) = min(seconds.items()), max(seconds.items())
    if long == math.inf:
        return 0.0
    share = long / many
    each = (long - short) / (many - few) if few < many else share
    return batch_size / (long + (batch_size - many) * min(max(each, (1 - STEADY) * share), share))


def sequential(backends: Sequence[Backend], benchmark: Benchmark) -> dict[Backend, float]:
    """Images per second of each candidate with all images, with CUDA graphs if training uses them.

    The weights must keep their addresses from capture to the last replay. A candidate whose eager passes are too slow
    compared with those before it is not captured, and its speed is that of the eager passes.
    """
    images, speeds = len(benchmark.images), {}
    quickest = math.inf
    for backend in backends:
        benchmark.apply(backend)
        graphs = CudaGraphs(log=discard_log) if benchmark.train_step.graphs else None
        durations = [benchmark.seconds(backend, images, graphs)]
        if durations[0] < math.inf:
            durations = [benchmark.seconds(backend, images, graphs) for _ in range(WARM_UP - 1)]
            quickest = min(quickest, *durations)
            if min(durations) < TOO_SLOW * quickest:
                benchmark.seconds(backend, images, graphs)  # captures the graph
                durations = [benchmark.seconds(backend, images, graphs) for _ in range(ROUNDS)]
        speeds[backend] = images / min(durations)
        del graphs
        torch.cuda.empty_cache()  # the next candidate needs other block sizes
    return speeds


def choose_fastest(speeds: dict[Backend, float]) -> Backend:
    """The first candidate within `MARGIN` of the fastest."""
    return next(backend for backend, speed in speeds.items() if MARGIN * speed >= max(speeds.values()))
