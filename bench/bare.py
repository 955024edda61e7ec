"""Whole epochs compared with forward, backward and update on one batch: python -m bench.bare

What is missing to 1 is what loading, augmentation, totals, schedule and log cost.
"""

import torch

from bench.sides import Options, Ours, bare
from bench.timing import interleaved, surroundings

NETWORKS = ["lenet5", "resnet20", "resnet18", "mobilenet_v2", "densenet100bc"]


def main() -> None:
    """Print the table, in Markdown."""
    arguments = Options("bare", __doc__, NETWORKS).parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers)}; images a second\n")
    print("| network | chosen | whole epoch | bare step | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for network in arguments.networks:
        ours = Ours(network, **arguments.ours)
        whole, limit = interleaved([ours, bare(ours)], rounds=arguments.rounds)
        print(f"| {network} | {ours.chosen} | {whole:,.0f} | {limit:,.0f} | {whole / limit:.3f} |", flush=True)


if __name__ == "__main__":
    main()
