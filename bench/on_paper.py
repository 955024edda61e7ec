"""What 8, 64 and 512 GPUs would give for one run, computed from a step on one: python -m bench.on_paper

Networks are given with their speed on one GPU (resnet20=40000: images a second, as bench.bare measures them). Without,
it follows from their multiply-adds, of which a GPU reaches `--share` of a large matrix product's. On top:

- a step takes no less than the time in which its operators can be started, one after the other;
- the gradient, float32, goes twice around a ring of the GPUs, as all-reduce does, in the shadow of the backward pass,
  two thirds of the computation; what is longer than that is waited for;
- each synchronised batch norm sends three short messages, which nothing hides;
- a message is as fast as the slowest link on its way: within a machine of 8, or between machines.

No GPU is used. Nothing is known here of stragglers or of networks that others use: the times are the least that can be.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hubconf
from engine.device.flops import count_multiply_adds

NETWORKS = ["resnet20", "resnet18", "wrn28_10"]
GPUS = (1, 8, 64, 512)
IMAGES = 50_000
OF_ONE_RUN = 1024  # images a batch, which many GPUs share
OF_ONE_GPU = 128  # images a GPU and batch, where the batch grows with the GPUs
MESSAGES = 3  # of a batch norm in a step: engine/distributed/ranks.py


@dataclass(frozen=True)
class Links:
    """GPUs in machines, and how they are tied together: bytes a second of each GPU, seconds from one to the next."""

    a_machine: int
    within: float
    between: float
    hop_within: float
    hop_between: float

    def all_reduce(self, gpus: int, size: float) -> float:
        """Seconds in which `gpus` add up `size` bytes and all have the sum: a ring's transfer, a tree's hops."""
        here, backends = min(gpus, self.a_machine), math.ceil(gpus / self.a_machine)
        hops = math.ceil(math.log2(here)) * self.hop_within + math.ceil(math.log2(backends)) * self.hop_between
        slowest = self.between if backends > 1 else self.within
        return 2 * hops + 2 * (gpus - 1) / gpus * size / slowest


@dataclass(frozen=True)
class Network:
    """What counts of a network: bytes of its gradient, its batch norms, operators a step, seconds an image."""

    name: str
    gradient: int
    norms: int
    operators: int
    seconds_an_image: float

    def step(self, links: Links, gpus: int, batch: int, *, start: float) -> tuple[float, float]:
        """Seconds of a step with `batch` images in all, and how many of them are spent waiting for messages."""
        backend = max(math.ceil(batch / gpus) * self.seconds_an_image, self.operators * start)
        if gpus == 1:
            return backend, 0.0
        exposed = max(links.all_reduce(gpus, self.gradient) - 2 / 3 * backend, 0.0)
        waited = exposed + MESSAGES * self.norms * links.all_reduce(gpus, 0)
        return backend + waited, waited


class Started(TorchDispatchMode):
    """Within, operators are counted that start something on a device: those that make no view."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def network(asked: str, *, reached: float) -> Network:
    """The network `NAME` or `NAME=IMAGES_PER_SECOND`; without a speed it does `reached` multiply-adds a second."""
    name, _, speed = asked.partition("=")
    model = hubconf.create(name, num_classes=10)
    work = 3 * count_multiply_adds(model, torch.Size((3, 32, 32)))
    return Network(
        name=name,
        gradient=4 * sum(parameter.numel() for parameter in model.parameters()),
        norms=sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()),
        operators=count_operators(model),
        seconds_an_image=1 / float(speed) if speed else work / reached,
    )


def count_operators(model: nn.Module) -> int:
    """Operators of forward, backward and update, which is one for all weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    images, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    with Started() as started:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return started.count


def main() -> None:
    """Print the tables, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.on_paper", description=__doc__.partition("\n")[0])
    parser.add_argument("--teraflops", type=float, default=650, help="of a large matrix product in bf16 on one GPU")
    parser.add_argument("--share", type=float, default=0.2, help="of that, which training a network reaches")
    parser.add_argument("--start", type=float, default=5, help="microseconds to start an operator")
    parser.add_argument("--within", type=float, default=400, help="GB/s of a GPU to others of its machine")
    parser.add_argument("--between", type=float, default=50, help="GB/s of a GPU to those of other machines")
    parser.add_argument("--hop-within", type=float, default=3, help="microseconds to the next GPU of the machine")
    parser.add_argument("--hop-between", type=float, default=8, help="microseconds to the next machine")
    parser.add_argument("networks", nargs="*", metavar="network", default=NETWORKS)
    asked = parser.parse_args()
    links = Links(8, asked.within * 1e9, asked.between * 1e9, asked.hop_within / 1e6, asked.hop_between / 1e6)
    found = [network(name, reached=asked.teraflops * 1e12 / 2 * asked.share) for name in asked.networks]
    for title, batch_of in (
        (f"the same batch of {OF_ONE_RUN:,} images", lambda gpus: OF_ONE_RUN),
        (f"{OF_ONE_GPU} images a GPU", lambda gpus: OF_ONE_GPU * gpus),
    ):
        print(f"\n| {title} | GPUs | batch | steps an epoch | ms a step | of it waited | s an epoch | times as fast |")
        print(f"| --- |{' ---: |' * 7}")
        for one in found:
            alone = None
            for gpus in GPUS:
                batch = min(batch_of(gpus), IMAGES)
                seconds, waited = one.step(links, gpus, batch, start=asked.start / 1e6)
                steps = math.ceil(IMAGES / batch)
                alone = alone or steps * seconds
                figures = f"{1000 * seconds:.2f} | {1000 * waited:.2f} | {steps * seconds:.2f}"
                print(f"| {one.name} | {gpus} | {batch:,} | {steps} | {figures} | {alone / (steps * seconds):.1f} |")


if __name__ == "__main__":
    main()
