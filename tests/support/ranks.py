"""The ranks of one run as processes of their own."""

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.support.runs import SMALL, figures, train_in

PROCESSES = multiprocessing.get_context("forkserver")  # which imports torch once for all of them


SECONDS = 120  # for what takes a few where nobody else computes


# 97 images in batches of 31: not divisible by the processes of any test.
SETTINGS = (
    *(word for word in SMALL if not word.startswith(("model", "trainer.batch", "dataset.train", "trainer.max_epochs"))),
    "dataset.train_size=107",
    "dataset.val_size=10",
    "model=resnet20",
    "model.depths=[1,1,1]",
    "trainer.batch_size=31",
    "trainer.max_epochs=2",
    "regularization=[weight_decay,cutout,mixup,label_smoothing,ema]",
    "optimizer.lr=0.02",
)


MASKED = "regularization=[weight_decay,dropout,mixup,ema]"


class Group:
    """The ranks of one run as processes of their own, in a directory, without a launcher."""

    def __init__(self, count: int, *words: str, directory: Path):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.errors = directory.with_suffix(".errors")
        ranks = [(rank, count, port, directory, self.errors, words) for rank in range(count)]
        self.ranks = [PROCESSES.Process(target=be_rank, args=arguments, daemon=True) for arguments in ranks]
        for rank in self.ranks:
            rank.start()

    def is_running(self) -> bool:
        """Whether none has ended."""
        return all(rank.is_alive() for rank in self.ranks)

    def end(self) -> list[int | None]:
        """The exit status of each, None of one that does not end in time."""
        for rank in self.ranks:
            rank.join(SECONDS)
        return [rank.exitcode for rank in self.ranks]


def be_rank(rank: int, count: int, port: int, directory: Path, errors: Path, words: tuple[str, ...]) -> None:
    """Train as one of several processes; the first has the directory."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(rank)}
    sys.stderr = open(errors, "a")  # noqa: SIM115
    train_in(directory if rank == 0 else directory.parent, *SETTINGS, *words)


def wait_for(what: Callable[[], bool], goes_on: Callable[[], bool]) -> None:
    """Until something is the case; what is to bring it about must go on meanwhile."""
    until = time.monotonic() + SECONDS
    while not what():
        assert goes_on()
        assert time.monotonic() < until
        time.sleep(0.02)


def records(directory: Path) -> list[dict]:
    """What does not depend on the clock in each epoch's figures."""
    return figures([json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()])


def weights(directory: Path) -> dict:
    """What a run has come to, without its clock."""
    content = torch.load(directory / "checkpoints" / "last.pt", weights_only=True)
    return {name: content["state"][name] for name in ("model", "optimizer", "averages", "step", "random")}
