"""From the command to the first step, a sweep's next jobs, and the most memory a run takes: python -m bench.start

Each command runs in a process of its own, as a user runs it, on generated images.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from engine.config.did_you_mean import ROOT

JOBS = 4


def train(*words: str) -> tuple[float, list[float], float]:
    """Seconds from the command to the line that comes before the first step, what each job says its own setting up
    took, and the peak memory in GB.
    """
    command = [sys.executable, "-u", str(ROOT / "train.py"), "dataset=shapes", "trainer.max_epochs=1", *words]
    begun, ready, setting_up = time.perf_counter(), [], []
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process,
    ):
        for line in process.stdout:
            if said := re.search(r"set up in ([\d.]+) s", line):
                ready.append(time.perf_counter() - begun)
                setting_up.append(float(said[1]))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not ready:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}, or never began")
    return ready[0], setting_up, usage.ru_maxrss * 1024 / 1e9


def seconds_to_import(module: str) -> float:
    """Seconds of a process that imports a module and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT)
    return time.perf_counter() - begun


def main() -> None:
    """Print the table, in Markdown, and what else was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command, in turns")
    parser.add_argument("--images", type=int, default=50_000, help="in a sweep, and where memory is measured")
    parser.add_argument("networks", nargs="*", metavar="network", default=["lenet5", "resnet20", "resnet18"])
    arguments = parser.parse_args()
    images = (f"dataset.train_size={arguments.images}", "dataset.test_size=10000")
    few = ("dataset.train_size=200", "dataset.test_size=100", "dataset.val_size=20")
    commands = {"import torch": lambda: seconds_to_import("torch")}
    for network in arguments.networks:
        commands[f"train.py model={network}"] = lambda network=network: train(f"model={network}", *few)[0]
    rounds = [[command() for command in commands.values()] for _ in range(arguments.rounds)]
    print("| to the first step | s |\n| --- | ---: |")
    for name, times in zip(commands, zip(*rounds, strict=True), strict=True):
        print(f"| {name} | {statistics.median(times):.1f} |")
    _, (first, *others), _ = train("-m", "model=lenet5", f"seed=range({JOBS})", *images)
    told = f"the first took {first:.1f} s to set up, the next ones {statistics.median(others):.1f} s (median)"
    print(f"\na sweep of lenet5 over {JOBS} seeds on {arguments.images:,} images: {told}")
    _, _, memory = train("model=resnet20", *images, "dataset.val_size=0")
    print(f"\npeak memory of resnet20 on {arguments.images:,} images, batch 128, one epoch: {memory:.2f} GB")


if __name__ == "__main__":
    main()
