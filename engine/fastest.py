"""Which precision and memory format is fastest, found by trying: it differs by network, batch and machine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from engine.machine import Machine
from engine.state import TrainState
from engine.step import TrainStep

ROUNDS, ENOUGH = 4, 0.3  # at least so many rounds, and so many seconds in all; each candidate's shortest counts
LONG_ENOUGH = 0.1  # seconds: a pass that takes longer is not tried on more images
HOPELESS = 1.5  # times the shortest: a candidate that takes longer in two rounds is not tried again
MARGIN = 1.1  # so much faster must a candidate be than one that stands before it: in doubt every run chooses alike


def try_out(
    machines: Sequence[Machine], state: TrainState, train_step: TrainStep, *, image_shape: torch.Size, batch_size: int
) -> dict[Machine, float]:
    """Images a second, forward and backward, for each candidate.

    They take turns, so that whatever else the machine is doing slows them all. Batches have half the size
    of those in training, so that none takes more memory in fp32 than the run in 16 bits, or less if that takes
    long. What does not fit into memory has no speed. Neither the running statistics of `state` nor its memory
    format are of use afterwards, and torch's handling of fp32 products is that of the last candidate.
    """
    device, most = machines[0].device, max(2, batch_size // 2)
    everything = torch.randn(most, *image_shape, device=device)
    labels = torch.zeros(most, dtype=torch.int64, device=device)

    def seconds(machine: Machine, images: int) -> float:
        machine.precision.set_fp32_products()
        step = replace(train_step, precision=machine.precision, micro_batches=1)
        try:
            state.model.to(memory_format=machine.memory_format)
            batch = everything[:images].contiguous(memory_format=machine.memory_format)
            machine.wait()
            begun = time.perf_counter()
            step.add_gradients(state, batch, labels[:images])
            machine.wait()
            return time.perf_counter() - begun
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            state.optimizer.zero_grad()

    state.model.train()
    images = 2
    seconds(machines[0], images)
    while images < most and seconds(machines[0], images) < LONG_ENOUGH:
        images = min(4 * images, most)
    for machine in machines:
        seconds(machine, images)  # the first time of everything costs more
    durations = shortest({machine: lambda machine=machine: seconds(machine, images) for machine in machines})
    return {machine: images / duration for machine, duration in durations.items()}


def shortest(candidates: dict[Machine, Callable[[], float]]) -> dict[Machine, float]:
    """The shortest of some durations of each candidate, measured in turns."""
    best = dict.fromkeys(candidates, math.inf)
    rounds, spent = 0, 0.0
    while rounds < ROUNDS or spent < ENOUGH:
        hopeless = HOPELESS * min(best.values())
        for candidate, measure in candidates.items():
            if rounds < 2 or best[candidate] < hopeless:
                duration = measure()
                best[candidate] = min(best[candidate], duration)
                spent += duration
        rounds += 1
    return best


def fastest(speeds: dict[Machine, float]) -> Machine:
    """The first candidate that is about as fast as the fastest."""
    return next(machine for machine, speed in speeds.items() if MARGIN * speed >= max(speeds.values()))
