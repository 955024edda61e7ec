"""From the command to the first step, and the most memory that a run takes: python -m bench.start

Each command runs in a process of its own, as a user runs it, on generated images.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from engine.check import ROOT


def train(*overrides: str) -> tuple[float, float]:
    """Seconds from the command to the line that comes before the first step, and the run's peak memory in GB."""
    command = [sys.executable, "-u", str(ROOT / "train.py"), "dataset=shapes", "trainer.max_epochs=1", *overrides]
    begun, ready = time.perf_counter(), None
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process,
    ):
        for line in process.stdout:
            if line.startswith("set up in"):
                ready = time.perf_counter() - begun
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or ready is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}, or never began")
    return ready, usage.ru_maxrss * 1024 / 1e9


def seconds_to_import(module: str) -> float:
    """Seconds of a process that imports a module and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT)
    return time.perf_counter() - begun


def main() -> None:
    """Print both tables, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command, in turns")
    parser.add_argument("--images", type=int, default=50_000, help="to train on, where memory is measured")
    parser.add_argument("networks", nargs="*", metavar="network", default=["lenet5", "resnet20", "resnet18"])
    arguments = parser.parse_args()
    few = ("dataset.train_size=200", "dataset.test_size=100", "dataset.val_size=20")
    commands = {"import torch": lambda: seconds_to_import("torch")}
    for network in arguments.networks:
        commands[f"train.py model={network}"] = lambda network=network: train(f"model={network}", *few)[0]
    rounds = [[command() for command in commands.values()] for _ in range(arguments.rounds)]
    print("| to the first step | s |\n| --- | ---: |")
    for name, times in zip(commands, zip(*rounds, strict=True), strict=True):
        print(f"| {name} | {statistics.median(times):.1f} |")
    _, memory = train(
        "model=resnet20", f"dataset.train_size={arguments.images}", "dataset.test_size=10000", "dataset.val_size=0"
    )
    print(f"\npeak memory of resnet20 on {arguments.images:,} images, batch 128, one epoch: {memory:.2f} GB")


if __name__ == "__main__":
    main()
