"""The recipe `speedrun` and the record airbench94:

python -m bench.speedrun --root DIR --record FILE trainer.compile=true --epochs 6 8 10

Both train on the same photographs (`train/<class>/*`, `test/<class>/*`) on the same GPU, in turns in one process. FILE
is airbench94_muon.py of github.com/KellerJordan/cifar10-airbench, which is not part of this project. Each side's first
run does not count: it sets up libraries and compiles. Seconds are those of training and of the test, without those for
reading images and, by airbench94's own clock, without the tests after each epoch, of which ours makes none; ours count
the building of the network, which airbench94's do not. The recipe in several lengths shows what it comes to in the
record's seconds: between two of them on a straight line.
"""

import argparse
import importlib.util
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bench.sides import Unsaved
from bench.timing import surroundings
from data.dataset import Images, Splits
from engine.build import autotune, objects
from engine.config.did_you_mean import CONF
from engine.config.schedule import make_schedule
from engine.device.compile import compile_network
from engine.evaluation.evaluate import evaluate
from engine.logging.run_log import RunLog
from engine.logging.sink import Begun
from engine.run.directory import RunDirectory
from engine.sweep.study import never_prune
from engine.training.fit import fit

Side = Callable[[int], tuple[float, float]]  # of a seed: test accuracy, seconds


def ours(config: DictConfig, splits: Splits, directory: Path, *, epochs: int) -> Side:
    """Runs of a recipe in so many epochs, one for each seed, from its initial weights to its test."""
    config = config.copy()
    config.trainer.max_epochs = epochs
    backend, run = autotune.possible_backends(config)[0], RunDirectory(directory / f"{epochs} epochs")

    def train(seed: int) -> tuple[float, float]:
        config.seed = seed
        autotune.set_up(config, backend)
        loaders, step = objects.loaders(config, splits, backend), objects.train_step(config, backend)
        backend.wait()
        begun = time.perf_counter()
        state = objects.state(config, splits, backend)
        state.schedule = make_schedule(config, steps_per_epoch=len(loaders.train))
        if config.trainer.compile:
            compile_network(state.model)
        fit(
            state,
            train=loaders.train,
            eval_loaders={},
            train_step=step,
            max_epochs=config.trainer.max_epochs,
            log=RunLog(Begun(run=run, facts={}, records=state.records)),
            checkpoints=Unsaved(run, {}),
            roll_back=False,
            pruning_callback=never_prune,
        )
        views = objects.instantiate(config.tta)
        figures = evaluate(state.model, loaders.test, precision=backend.precision, views=views)
        return figures.accuracy, time.perf_counter() - begun

    return train


def record(file: Path, splits: Splits, directory: Path) -> Side:
    """Runs of airbench94, as its own file has them; its images lie below `directory`."""
    (directory / "cifar10").mkdir()
    for name, images in (("train", splits.train), ("test", splits.test)):
        torch.save(as_it_reads_them(images, splits.classes), directory / "cifar10" / f"{name}.pt")
    specification = importlib.util.spec_from_file_location("record", file)
    module = importlib.util.module_from_spec(specification)
    sys.argv = [str(file)]  # which it reads, as it does its images from where it is
    os.chdir(directory)
    specification.loader.exec_module(module)
    model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")

    def train(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(False)
        printed = io.StringIO()
        with redirect_stdout(printed):
            accuracy = module.main(seed, model)
        *_, last = [line for line in printed.getvalue().splitlines() if "eval" in line]
        return accuracy, float(last.split("|")[-2])

    return train


def as_it_reads_them(images: Images, classes: Sequence[str]) -> dict[str, object]:
    """Images as airbench94 keeps them: uint8 [N, H, W, C]."""
    return {"images": images.images.permute(0, 2, 3, 1).contiguous(), "labels": images.labels, "classes": list(classes)}


def in_the_same_time(runs: Sequence[tuple[float, float]], seconds: float) -> str:
    """What some lengths of a recipe, each with its accuracy and seconds, come to in so many seconds; in words."""
    accuracies, times = zip(*sorted(runs, key=lambda run: run[1]), strict=True)
    if not times[0] <= seconds <= times[-1]:
        return f"no two of these lengths have {seconds:.2f} s between them: see --epochs"
    return f"in {seconds:.2f} s the recipe comes to {100 * np.interp(seconds, times, accuracies):.2f} %"


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.speedrun", description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="the photographs")
    parser.add_argument("--record", type=Path, help="airbench94_muon.py; without it only ours")
    parser.add_argument("--runs", type=int, default=10, help="of each side")
    parser.add_argument("--epochs", type=int, nargs="+", help="lengths of the recipe, if not its own alone")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in addition to recipe=speedrun")
    arguments = parser.parse_args()
    overrides = ["recipe=speedrun", "dataset=folder", f"dataset.root={arguments.root}", *arguments.overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides)
    splits = objects.splits(config)
    with tempfile.TemporaryDirectory() as directory:
        lengths = arguments.epochs or [config.trainer.max_epochs]
        sides = {
            f"speedrun, {epochs} epochs": ours(config, splits, Path(directory), epochs=epochs) for epochs in lengths
        }
        if arguments.record:
            sides["airbench94"] = record(arguments.record.resolve(), splits, Path(directory))
        for side in sides.values():
            side(arguments.runs)
        runs = [[side(seed) for side in sides.values()] for seed in range(arguments.runs)]
    print(f"{surroundings(os.cpu_count())}; {', '.join([f'{len(splits.train):,} images', *arguments.overrides])}\n")
    print("| | runs | test accuracy, % | seconds |\n| --- | ---: | ---: | ---: |")
    found = []
    for name, results in zip(sides, zip(*runs, strict=True), strict=True):
        accuracies, seconds = zip(*results, strict=True)
        spread = 100 * statistics.stdev(accuracies) if len(runs) > 1 else 0
        mean = f"{100 * statistics.mean(accuracies):.2f} +- {spread:.2f}"
        found.append((statistics.mean(accuracies), statistics.median(seconds)))
        print(f"| {name} | {len(runs)} | {mean} | {found[-1][1]:.2f} |")
    if arguments.record:
        *ours_in_lengths, (_, seconds) = found
        print(f"\n{in_the_same_time(ours_in_lengths, seconds)}")


if __name__ == "__main__":
    main()
