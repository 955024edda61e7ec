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
HOPELESS = 2.0  # times the shortest: a candidate that takes longer is not tried again
MARGIN = 1.1  # so much faster than the first must another be: in doubt every run chooses alike


def try_out(
    machines: Sequence[Machine], state: TrainState, train_step: TrainStep, *, image_shape: torch.Size, batch_size: int
) -> dict[Machine, float]:
    """Images a second, forward and backward, for each candidate.

    They take turns, so that whatever else the machine is doing slows them all. Batches have half the size
    of those in training, so that none takes more memory in fp32 than the run in 16 bits, or less if that takes
    long. What does not fit into memory has no speed.
    The running statistics of `state` are of no use afterwards.
    """
    device, most = machines[0].device, max(2, batch_size // 2)
    everything = torch.randn(most, *image_shape, device=device)
    labels = torch.zeros(most, dtype=torch.int64, device=device)

    def seconds(machine: Machine, images: int) -> float:
        state.model.to(memory_format=machine.memory_format)
        machine.precision.set_fp32_products()
        step = replace(train_step, precision=machine.precision, micro_batches=1)
        batch = everything[:images].contiguous(memory_format=machine.memory_format)
        wait_for(device)
        begun = time.perf_counter()
        try:
            step.add_gradients(state, batch, labels[:images])
            wait_for(device)
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
    shortest = in_turns({machine: lambda machine=machine: seconds(machine, images) for machine in machines})
    return {machine: images / duration for machine, duration in shortest.items()}


def in_turns(candidates: dict[Machine, Callable[[], float]]) -> dict[Machine, float]:
    """The shortest of some durations of each candidate; those that are hopeless are asked once."""
    shortest = {candidate: measure() for candidate, measure in candidates.items()}
    rounds, spent = 1, sum(shortest.values())
    while rounds < ROUNDS or spent < ENOUGH:
        for candidate, measure in candidates.items():
            if shortest[candidate] < HOPELESS * min(shortest.values()):
                duration = measure()
                shortest[candidate] = min(shortest[candidate], duration)
                spent += duration
        rounds += 1
    return shortest


def fastest(speeds: dict[Machine, float]) -> Machine:
    """The candidate with the highest speed, or the first if that is about as fast."""
    first, best = next(iter(speeds)), max(speeds, key=speeds.__getitem__)
    return best if speeds[best] > MARGIN * speeds[first] else first


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given; a CPU does so at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
