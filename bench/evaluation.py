"""Evaluation compared with the network's forward passes alone: python -m bench.evaluation

What is missing to 1 is what loading, sums and answers cost and, in the report of evaluate.py, figures and pictures.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.sides import Ours
from bench.timing import interleaved, surroundings
from engine.build import from_checkpoint, training
from engine.build.training import Parts
from engine.evaluation.evaluate import evaluate
from engine.report.network_result import network_result
from engine.report.report import report
from engine.run.directory import RunDirectory
from engine.training.checkpoint_file import read

FEWEST = 100  # images that can be generated


def parts_of(network: str, run: RunDirectory, *, images: int) -> Parts:
    """A run of a network that has not been trained: so many test images, and half as many held out."""
    config = Ours.config(network, batch_size=128, images=images // 2 + FEWEST)
    config.dataset.test_size, config.dataset.val_size = images, images // 2
    return training.parts(config, run, keep_data=False)


def bare(parts: Parts) -> Callable[[], int]:
    """Forward passes on batches that lie there, after which nobody asks for the answers."""
    model, backend = parts.state.model, parts.backend
    batches = [images for images, _ in parts.loaders.test]

    @torch.no_grad()
    def forward() -> int:
        model.eval()
        for images in batches:
            with backend.precision.autocast():
                model(images)
        backend.wait()
        return sum(map(len, batches))

    return forward


def evaluation(parts: Parts) -> Callable[[], int]:
    """The test at the end of a training run, or validation after an epoch."""
    return lambda: evaluate(parts.state.model, parts.loaders.test, precision=parts.backend.precision).images


def whole_report(parts: Parts) -> Callable[[], int]:
    """What evaluate.py does once network and images are there, up to the files that it writes."""
    parts.checkpoints.save("last", parts.state)
    file = parts.checkpoints.run.last
    trained = from_checkpoint.rebuild(read(file), weights=None, device="auto")
    unseen = from_checkpoint.EvalData(parts.loaders.test, parts.loaders.eval_loaders["val"])

    def answer_and_write() -> int:
        report([network_result(trained, unseen, file, "network")])
        return len(unseen.test.images) + len(unseen.val.images)

    return answer_and_write


def row(network: str, *, images: int, rounds: int) -> Sequence[str]:
    """A network's line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        parts = parts_of(network, RunDirectory(Path(directory)), images=images)
        limit, whole, reported = interleaved([bare(parts), evaluation(parts), whole_report(parts)], rounds=rounds)
    speeds = f"{limit:,.0f}", f"{whole:,.0f}", f"{whole / limit:.3f}", f"{reported:,.0f}", f"{reported / limit:.3f}"
    return network, str(parts.backend), *speeds


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="threads")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side, in turns")
    parser.add_argument("--images", type=int, default=10_000, help=f"to test on, at least {FEWEST}")
    parser.add_argument("networks", nargs="*", metavar="network", default=["resnet20", "lenet5"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.workers)
    print(f"{surroundings(arguments.workers)}; images a second of {arguments.images:,} test images\n")
    print("| network | chosen | forward passes | evaluation | share | report | share |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for network in arguments.networks:
        print(f"| {' | '.join(row(network, images=arguments.images, rounds=arguments.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
