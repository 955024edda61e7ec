"""One run in several processes of one thread beside one process with as many threads: python -m bench.ranks

Both have the same cores. What is missing to 1 is what the processes have to tell each other: the gradients' sum, and
batch norm's statistics.
"""

import multiprocessing
import os
import socket
from multiprocessing.connection import Connection

import torch

from bench.sides import Ours, parser
from bench.timing import in_turns, surroundings
from engine.distributed import joined

NETWORKS = ["lenet5", "resnet20", "resnet18"]


class Group:
    """Epochs of one run in some processes with some threads each, which wait in between."""

    def __init__(self, processes: int, threads: int, network: str, *, batch_size: int, seconds: float):
        start, pipes, self.processes = multiprocessing.get_context("spawn"), [], []
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        for rank in range(processes):
            mine, theirs = start.Pipe()
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
            arguments = (theirs, environment, threads, network, batch_size, seconds)
            self.processes.append(start.Process(target=rank_of_group, args=arguments, daemon=True))
            self.processes[-1].start()
            theirs.close()
            pipes.append(mine)
        self.pipes = pipes
        self.machine, *_ = [pipe.recv() for pipe in pipes]

    def __call__(self) -> int:
        for pipe in self.pipes:
            pipe.send(True)
        images, *_ = [pipe.recv() for pipe in self.pipes]
        return images

    def end(self) -> None:
        """Let the processes go."""
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def rank_of_group(
    pipe: Connection, environment: dict[str, object], threads: int, network: str, batch_size: int, seconds: float
) -> None:
    """One process: says how it computes, and then after each epoch that it is asked for how many images there were."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(threads)
    with joined("auto") as ranks:
        ours = Ours(network, batch_size=batch_size, seconds=seconds, ranks=ranks)
        pipe.send(str(ours.parts.machine))
        while pipe.recv():
            pipe.send(ours())


def main() -> None:
    """Print the table, in Markdown."""
    arguments = parser("ranks", __doc__, NETWORKS).parse_args()
    count, size = arguments.workers, {"batch_size": arguments.batch_size, "seconds": arguments.seconds}
    print(f"{surroundings(count)}; images a second in batches of {arguments.batch_size}\n")
    print(f"| network | chosen | one process | {count} processes | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for network in arguments.networks:
        groups = [Group(1, count, network, **size), Group(count, 1, network, **size)]
        one, several = in_turns(groups, rounds=arguments.rounds)
        chosen = ", ".join(dict.fromkeys(group.machine for group in groups))
        print(f"| {network} | {chosen} | {one:,.0f} | {several:,.0f} | {several / one:.3f} |", flush=True)
        for group in groups:
            group.end()


if __name__ == "__main__":
    main()
