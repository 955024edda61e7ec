"""Whole epochs that keep the memory of freed tensors, and ones that give it back: python -m bench.memory

The C library decides, or as `engine/device/memory.py` tells it: each way in a process of its own, in turns.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch

from bench.sides import Elsewhere, Options, Ours
from bench.timing import interleaved, surroundings
from engine.build import autotune
from engine.device.amp import precisions

NETWORKS = ["resnext29_2x64d", "densenet100bc", "mobilenet_v2", "resnet20", "resnet18"]


@dataclass(frozen=True)
class Watched:
    """Epochs, and as `chosen` what was seen of memory in one of them: page faults a step, the process's peak in GB."""

    epoch: Callable[[], int]
    chosen: tuple[float, float]

    def __call__(self) -> int:
        return self.epoch()


@contextmanager
def epochs(network: str, threads: int, ours: dict[str, object], is_kept: bool) -> Iterator[Watched]:
    """Epochs of a process that keeps freed memory, or does not."""
    torch.set_num_threads(threads)
    with nullcontext() if is_kept else patch.object(autotune, "keep_freed_memory", lambda: None):
        epoch = Ours(network, **ours)
        epoch()  # in which the process comes to its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        steps = epoch() / epoch.batch_size
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield Watched(epoch, ((usage.ru_minflt - before) / steps, usage.ru_maxrss * 1024 / 1e9))


def main() -> None:
    """Print the table, in Markdown."""
    arguments = Options("memory", __doc__, NETWORKS).parse_args()
    computed = [f"trainer.precision={precisions(torch.device('cpu'))[0]}", "trainer.memory_format=channels_last"]
    arguments.ours["overrides"] = ["trainer.device=cpu", *computed, *arguments.overrides]
    print(f"{surroundings(arguments.workers, device='cpu')}; seconds a step of {arguments.batch_size} images\n")
    print("| network | by itself | kept | | faults | then | peak, GB | then |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for network in arguments.networks:
        given = network, arguments.workers, arguments.ours
        with Elsewhere(epochs, (*given, False)) as freed, Elsewhere(epochs, (*given, True)) as kept:
            rates = interleaved([freed, kept], rounds=arguments.rounds)
        before, then = (arguments.batch_size / rate for rate in rates)
        faults, peaks = zip(freed.chosen, kept.chosen, strict=True)
        figures = f"{before:.3f} | {then:.3f} | {before / then:.2f} | {faults[0]:,.0f} | {faults[1]:,.0f}"
        print(f"| {network} | {figures} | {peaks[0]:.2f} | {peaks[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
