"""One run in several processes of one thread, and in one process with as many threads: python -m bench.ranks

Both have the same cores. What is missing to 1 is what the processes have to tell each other: the gradients' sum, and
batch norm's statistics.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.sides import Elsewhere, Options, Ours
from bench.timing import interleaved, surroundings
from engine.distributed.ranks import joined

NETWORKS = ["lenet5", "resnet20", "resnet18"]


def group(processes: int, threads: int, *side: object) -> Elsewhere:
    """Epochs of one run in some processes with some threads each; `side` is what `rank` makes its own of."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": threads}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    places = [shared | {"RANK": number, "LOCAL_RANK": number} for number in range(processes)]
    return Elsewhere(rank, *((place, threads, *side) for place in places))


@contextmanager
def rank(
    environment: dict[str, object], threads: int, network: str, ours: dict[str, object]
) -> Iterator[Callable[[], int]]:
    """One process of a group."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(threads)
    with joined("auto") as ranks:
        yield Ours(network, **ours, ranks=ranks)


def main() -> None:
    """Print the table, in Markdown."""
    arguments = Options("ranks", __doc__, NETWORKS).parse_args()
    count = arguments.workers
    if "trainer.compile=true" in arguments.overrides:
        raise SystemExit("trainer.compile=true supports one process only")
    if 0 < torch.cuda.device_count() < count:
        here = torch.cuda.device_count()
        raise SystemExit(f"{here} GPU for {count} processes; CUDA_VISIBLE_DEVICES= leaves them the processor")
    print(f"{surroundings(count)}; images a second in batches of {arguments.batch_size}\n")
    print(f"| network | chosen | one process | {count} processes | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for network in arguments.networks:
        side = network, arguments.ours
        with group(1, count, *side) as alone, group(count, 1, *side) as together:
            one, several = interleaved([alone, together], rounds=arguments.rounds)
        chosen = ", ".join(dict.fromkeys([alone.chosen, together.chosen]))
        print(f"| {network} | {chosen} | {one:,.0f} | {several:,.0f} | {several / one:.3f} |", flush=True)


if __name__ == "__main__":
    main()
