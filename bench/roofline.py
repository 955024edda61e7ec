"""Multiply-adds a second in training and in a large matrix product: python -m bench.roofline

A training step is counted as three forward passes: one forward, and backward one for the inputs and one for the
weights. The product of two matrices is computed in the precision that was chosen for the network.
"""

from collections.abc import Callable

import torch

from bench.sides import Options, Ours
from bench.timing import interleaved, surroundings
from engine.device.amp import DTYPES
from engine.device.device import Backend
from engine.device.flops import count_multiply_adds

NETWORKS = ["lenet5", "resnet20", "resnet18", "vgg16", "resnext29_2x64d", "densenet100bc", "mobilenet_v2"]
SIDE = {"cpu": 2048, "cuda": 8192}  # of a matrix: a GPU is done with a smaller one before the next is started
TIMES = 8


def product(backend: Backend) -> Callable[[], int]:
    """Multiplies two matrices some times, and returns the multiply-adds of that."""
    dtype, side = DTYPES[backend.precision.name], SIDE.get(backend.device.type, 2048)
    left, right = (torch.randn(side, side, device=backend.device).to(dtype) for _ in range(2))

    def multiply() -> int:
        backend.precision.set_fp32_products()
        for _ in range(TIMES):
            left @ right
        backend.wait()
        return TIMES * side**3

    return multiply


def main() -> None:
    """Print the table, in Markdown."""
    arguments = Options("roofline", __doc__, NETWORKS).parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers)}; 10^9 multiply-adds a second\n")
    print(
        "| network | chosen | images/s | training | matrix product | share |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for network in arguments.networks:
        ours = Ours(network, **arguments.ours)
        images, limit = interleaved([ours, product(ours.parts.backend)], rounds=arguments.rounds)
        shape = ours.parts.splits.train.images.shape[1:]
        used = 3 * images * count_multiply_adds(ours.parts.state.model, shape)
        figures = f"{images:,.0f} | {used / 1e9:,.0f} | {limit / 1e9:,.0f} | {used / limit:.2f}"
        print(f"| {network} | {ours.chosen} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
