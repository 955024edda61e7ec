"""Multiply-adds a second in training beside those of a large matrix product: python -m bench.roofline

A training step is counted as three forward passes: one forward, and backward one for the inputs and one for the
weights. The product of two matrices is computed in the precision that was chosen for the network.
"""

import torch

from bench.sides import Ours, parser
from bench.timing import in_turns, surroundings
from engine.counts import count_multiply_adds
from engine.machine import DTYPES, Machine

NETWORKS = ["lenet5", "resnet20", "resnet18", "vgg16", "resnext29_2x64d", "densenet100bc", "mobilenet_v2"]
SIDE = 2048


def product(machine: Machine) -> float:
    """Multiply-adds a second of a product of two matrices."""
    dtype = DTYPES[machine.precision.name]
    left, right = (torch.randn(SIDE, SIDE, device=machine.device).to(dtype) for _ in range(2))

    def multiply() -> int:
        for _ in range(8):
            left @ right
        machine.wait()
        return 8 * SIDE**3

    (multiply_adds,) = in_turns([multiply], rounds=5)
    return multiply_adds


def main() -> None:
    """Print the table, in Markdown."""
    arguments = parser("roofline", __doc__, NETWORKS).parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers)}; 10^9 multiply-adds a second\n")
    print(
        "| network | chosen | images/s | training | matrix product | share |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for network in arguments.networks:
        ours = Ours(network, batch_size=arguments.batch_size, seconds=arguments.seconds, compiled=arguments.compile)
        (images,) = in_turns([ours], rounds=arguments.rounds)
        shape = ours.parts.splits.train.images.shape[1:]
        used, limit = 3 * images * count_multiply_adds(ours.parts.state.model, shape), product(ours.parts.machine)
        figures = f"{images:,.0f} | {used / 1e9:,.0f} | {limit / 1e9:,.0f} | {used / limit:.2f}"
        print(f"| {network} | {ours.chosen} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
