"""Backward passes of depthwise convolutions in bf16 and fp32: python -m bench.depthwise

Where bf16 is much slower, `depthwise_conv` of models/layers.py computes in fp32 on processors.
"""

import argparse
from collections.abc import Callable

import torch
from torch.nn import functional as F

from bench.timing import interleaved, surroundings

KINDS = [(144, 32, 3, 1), (144, 32, 3, 2), (576, 8, 3, 2), (672, 8, 5, 2), (480, 4, 5, 1)]
TIMES = 5


def gradient(of: str, dtype: torch.dtype, kind: tuple[int, int, int, int], batch_size: int) -> Callable[[], int]:
    """Computes the gradient of the input or the weights, as `of` says, some times, and returns how often."""
    channels, side, kernel, stride = kind
    order = {"memory_format": torch.channels_last}
    images = torch.randn(batch_size, channels, side, side).to(dtype, **order).requires_grad_(of == "input")
    weights = torch.randn(channels, 1, kernel, kernel).to(dtype, **order).requires_grad_(of == "weights")
    output = F.conv2d(images, weights, stride=stride, padding=kernel // 2, groups=channels)
    given = torch.ones_like(output)
    asked = images if of == "input" else weights

    def backend() -> int:
        for _ in range(TIMES):
            torch.autograd.grad(output, asked, given, retain_graph=True)
        return TIMES

    return backend


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.depthwise", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="threads")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, in turns")
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers, device='cpu')}; milliseconds with {arguments.batch_size} images\n")
    print("| channels, pixels a side | kernel, stride | bf16, input | weights | fp32, input | weights |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for kind in KINDS:
        sides = [
            gradient(of, dtype, kind, arguments.batch_size)
            for dtype in (torch.bfloat16, torch.float32)
            for of in ("input", "weights")
        ]
        times = " | ".join(f"{1000 / rate:.2f}" for rate in interleaved(sides, rounds=arguments.rounds))
        channels, side, kernel, stride = kind
        print(f"| {channels}, {side} | {kernel}, {stride} | {times} |", flush=True)


if __name__ == "__main__":
    main()
