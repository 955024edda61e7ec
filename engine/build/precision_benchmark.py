"""Which precision and memory format is fastest, found by trying: it differs by network, batch and machine."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.device.cuda_graphs import WARM_UP, CudaGraphs, unheard
from engine.device.device import Backend
from engine.device.memory import is_out_of_memory
from engine.training.state import TrainState
from engine.training.step import TrainStep

ROUNDS, ENOUGH = 4, 0.3  # at least so many rounds, and so many seconds in all; each candidate's shortest counts

FEWEST, LONG_ENOUGH = 8, 0.05  # images, and seconds: where so many take longer no more are tried

HOPELESS = 1.5  # times as slow as the fastest: a candidate that is so after two rounds is left at that

STEADY = 0.75  # of the time of a small batch, which at most is the same for any number of images

MARGIN = 1.1  # so much faster must a candidate be than one that stands before it: in doubt every run chooses alike


def try_out(
    backends: Sequence[Backend],
    state: TrainState,
    train_step: TrainStep,
    *,
    image_shape: torch.Size,
    batch_size: int,
) -> dict[Backend, float]:
    """Images a second, forward and backward, for each candidate.

    On a processor they take turns, so that whatever else the machine is doing slows them all. Batches there have at
    most half the size of those in training (but two images), so that none takes more memory in fp32 than the run in
    16 bits, and tell what a whole one takes; on a GPU, where memory that did not suffice is told from the rest, they
    have all of it, for which cuDNN then has found its ways already. What does not fit into memory has no speed.
    Neither the running statistics of `state` nor its memory format are of use afterwards, and torch's handling of
    fp32 products is that of the last candidate.
    """
    device = backends[0].device
    most = max(2, batch_size if device.type == "cuda" else batch_size // 2)  # batch norm over one value has no meaning
    images = torch.randn(most, *image_shape, device=device)
    trial = Trial(state, train_step, images, torch.zeros(most, dtype=torch.int64, device=device))
    state.model.train()
    return one_after_the_other(backends, trial) if device.type == "cuda" else in_turns(backends, trial, batch_size)


@dataclass(frozen=True)
class Trial:
    """Passes of a network on some images."""

    state: TrainState
    train_step: TrainStep
    images: Tensor
    labels: Tensor

    def arrange(self, backend: Backend) -> None:
        """Have the next passes computed so."""
        backend.precision.set_fp32_products()
        self.state.model.to(memory_format=backend.memory_format)

    def seconds(self, backend: Backend, images: int, graphs: CudaGraphs | None = None) -> float:
        """Of forward and backward with so many images; for ever where memory does not suffice."""
        step = replace(self.train_step, precision=backend.precision, micro_batches=1, graphs=graphs)
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


def in_turns(backends: Sequence[Backend], trial: Trial, batch_size: int) -> dict[Backend, float]:
    """Images a second of each candidate with a whole batch, from passes in turns on two smaller ones.

    One alone would tell the wrong one: casting weights to 16 bits, and adding up their gradients, takes as long for
    few images as for many.
    """
    two = sizes(trial, backends[0])
    durations = {backend: dict.fromkeys(two, math.inf) for backend in backends}

    def speed(backend: Backend) -> float:
        return extrapolated(durations[backend], batch_size)

    def measure(backend: Backend) -> dict[int, float]:
        trial.arrange(backend)
        return {images: trial.seconds(backend, images) for images in durations[backend]}

    # The first time of everything costs more, and shows what there is memory for.
    left = [backend for backend in backends if max(measure(backend).values()) < math.inf]
    rounds, spent = 0, 0.0
    while left and (rounds < ROUNDS or spent < ENOUGH):
        hopeless = max(map(speed, left)) / HOPELESS
        for backend in left:
            if rounds < 2 or speed(backend) > hopeless:
                for images, duration in measure(backend).items():
                    durations[backend][images] = min(durations[backend][images], duration)
                    spent += duration
        rounds += 1
    return {backend: speed(backend) for backend in backends}


def sizes(trial: Trial, backend: Backend) -> tuple[int, int]:
    """Of two batches: so few images that a pass takes no longer than it must, by the first pass, and a quarter of that.

    Where there are no more than two images, both have these.
    """
    trial.arrange(backend)
    trial.seconds(backend, 2)
    most = len(trial.images)
    many = min(FEWEST, most)
    while many < most and trial.seconds(backend, many) < LONG_ENOUGH:
        many = min(4 * many, most)
    return max(2, many // 4), many


def extrapolated(seconds: dict[int, float], batch_size: int) -> float:
    """Images a second of a batch, of which each image takes as long as each that one of two smaller ones has more.

    Noise may say that this is nothing, or more than its share of the larger one; it is at most that, and not less than
    what `STEADY` leaves of it.
    """
    (few, short), (many, long) = min(seconds.items()), max(seconds.items())
    if long == math.inf:
        return 0.0
    share = long / many
    each = (long - short) / (many - few) if few < many else share
    return batch_size / (long + (batch_size - many) * min(max(each, (1 - STEADY) * share), share))


def one_after_the_other(backends: Sequence[Backend], trial: Trial) -> dict[Backend, float]:
    """Images a second of each candidate with all images, its passes recorded where those of training are.

    The weights must stay where they are from the first pass that is recorded to the last that is replayed. A candidate
    that is hopeless beside those before it, all of them started kernel by kernel, is not recorded, and its speed is
    that of these passes.
    """
    images, speeds = len(trial.images), {}
    quickest = math.inf
    for backend in backends:
        trial.arrange(backend)
        graphs = CudaGraphs(log=unheard) if trial.train_step.graphs else None
        durations = [trial.seconds(backend, images, graphs)]
        if durations[0] < math.inf:
            durations = [trial.seconds(backend, images, graphs) for _ in range(WARM_UP - 1)]
            quickest = min(quickest, *durations)
            if min(durations) < HOPELESS * quickest:
                trial.seconds(backend, images, graphs)  # which records
                durations = [trial.seconds(backend, images, graphs) for _ in range(ROUNDS)]
        speeds[backend] = images / min(durations)
        del graphs
        torch.cuda.empty_cache()  # what one way of computing leaves the next may have no use for
    return speeds


def fastest(speeds: dict[Backend, float]) -> Backend:
    """The first candidate that is about as fast as the fastest."""
    return next(backend for backend, speed in speeds.items() if MARGIN * speed >= max(speeds.values()))
