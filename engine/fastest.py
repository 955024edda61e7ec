"""Which precision and memory format is fastest, found by trying: it differs by network, batch and machine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from engine.graphs import WARM_UP, CudaGraphs
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

    On a processor they take turns, so that whatever else the machine is doing slows them all. Batches there have
    half the size of those in training, so that none takes more memory in fp32 than the run in 16 bits, or less if
    that takes long; on a GPU, where memory that did not suffice is told from the rest, they have all of it, for which
    cuDNN then has found its ways already. What does not fit into memory has no speed. Neither the running statistics
    of `state` nor its memory format are of use afterwards, and torch's handling of fp32 products is that of the last
    candidate.
    """
    device = machines[0].device
    most = batch_size if device.type == "cuda" else max(2, batch_size // 2)
    everything = torch.randn(most, *image_shape, device=device)
    labels = torch.zeros(most, dtype=torch.int64, device=device)

    def arrange(machine: Machine) -> None:
        machine.precision.set_fp32_products()
        state.model.to(memory_format=machine.memory_format)

    def seconds(machine: Machine, images: int, graphs: CudaGraphs | None = None) -> float:
        step = replace(train_step, precision=machine.precision, micro_batches=1, graphs=graphs)
        try:
            batch = everything[:images].contiguous(memory_format=machine.memory_format)
            machine.wait()
            begun = time.perf_counter()
            step.gradients(state, batch, labels[:images])
            machine.wait()
            return time.perf_counter() - begun
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            state.optimizer.zero_grad()

    def in_its_turn(machine: Machine, images: int) -> float:
        arrange(machine)
        return seconds(machine, images)

    def all_at_once(machine: Machine) -> float:
        arrange(machine)  # once: a recording is of the weights where they lie
        graphs = CudaGraphs() if train_step.graphs else None
        durations = [seconds(machine, most, graphs) for _ in range(WARM_UP + 1 + ROUNDS)]
        return min(durations[WARM_UP + 1 :])

    state.model.train()
    if device.type == "cuda":
        return {machine: most / all_at_once(machine) for machine in machines}
    images = 2
    in_its_turn(machines[0], images)
    while images < most and in_its_turn(machines[0], images) < LONG_ENOUGH:
        images = min(4 * images, most)
    for machine in machines:
        in_its_turn(machine, images)  # the first time of everything costs more
    durations = shortest({machine: lambda machine=machine: in_its_turn(machine, images) for machine in machines})
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
