"""Whole epochs compared with the usual way: torchvision and a DataLoader: python -m bench.standard

The same network, optimizer and batch; the other side reads through PIL transforms in a DataLoader with as many
workers as ours has threads, computes in fp32 and NCHW, and asks for the loss after each step.
"""

import torch

from bench.sides import Options, Ours, standard
from bench.timing import interleaved, surroundings

NETWORKS = ["lenet5", "resnet18", "mobilenet_v2", "resnext29_2x64d"]


def main() -> None:
    """Print the table, in Markdown."""
    arguments = Options("standard", __doc__, NETWORKS).parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers)}; images a second of a whole epoch\n")
    print("| network | chosen | ours | standard | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for network in arguments.networks:
        ours = Ours(network, **arguments.ours)
        with standard(ours, workers=arguments.workers) as theirs:
            fast, slow = interleaved([ours, theirs], rounds=arguments.rounds)
        print(f"| {network} | {ours.chosen} | {fast:,.0f} | {slow:,.0f} | {fast / slow:.2f} |", flush=True)


if __name__ == "__main__":
    main()
