"""What a training run spends on TensorBoard: python -m bench.tensorboard

The calls are timed within epochs of a few seconds; what they cost does not depend on the number of images, so that an
epoch of --images takes as long as these images take at the same speed. What a run does besides its epochs counts as no
time at all, so that the share is rather too large.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch

from bench.sides import Options, Ours
from bench.timing import rate, surroundings
from engine.build import describe, objects
from engine.logging.run_log import RunLog
from engine.logging.sink import Begun
from engine.logging.tensorboard import TensorBoard
from engine.training.state import TrainState

NETWORKS = ["lenet5", "resnet20"]
CALLS = [(TensorBoard, "begin"), (TensorBoard, "epoch"), (TensorBoard, "end"), (TrainState, "norms")]


@contextmanager
def timed(calls: Sequence[tuple[type, str]]) -> Iterator[list[float]]:
    """Seconds of each call of these methods; one from within another is part of that."""
    seconds, inside = [], False

    def with_clock(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal inside
            if inside:
                return method(*arguments)
            inside, begun = True, time.perf_counter()
            try:
                return method(*arguments)
            finally:
                inside = False
                seconds.append(time.perf_counter() - begun)

        return call

    with ExitStack() as stack:
        for owner, name in calls:
            stack.enter_context(patch.object(owner, name, with_clock(getattr(owner, name))))
        yield seconds


def importing(rounds: int) -> float:
    """Seconds that importing TensorBoard's writer takes where torch has been imported, each time in a new process."""
    program = "import time, torch; begun = time.perf_counter(); import torch.utils.tensorboard"
    command = [sys.executable, "-c", f"{program}; print(time.perf_counter() - begun)"]
    return statistics.median(float(subprocess.check_output(command, text=True)) for _ in range(rounds))


def costs(ours: Ours, *, rounds: int) -> tuple[float, float, float, float]:
    """Seconds of TensorBoard at the beginning, in an epoch and at the end of a run; images a second of its epochs."""
    config, parts = ours.config(ours.network, batch_size=ours.batch_size, images=ours.images), ours.parts
    choices, plain = {"model": ours.network, "dataset": "shapes"}, objects.plain(config)
    facts, state = describe.introduce(choices, config.seed, parts), parts.state
    shown = {"config": plain, "records": state.records, "model": state.model, "train": parts.loaders.train}
    log = ours.log = RunLog(Begun(run=ours.run, facts=facts, **shown), [TensorBoard(log_graph=False)])
    with timed(CALLS) as seconds:
        with log:
            spent, rates = [sum(seconds)], []
            for _ in range(rounds):
                rates.append(rate(ours))
                spent.append(sum(seconds))
            figures, tested = parts.final_test()
            given = describe.hyperparameters(config, choices, [])
            images = {"images": parts.splits.test, "classes": parts.splits.classes}
            log.finish(figures, hyperparameters=given, tested=tested, **images)
        ending = sum(seconds) - spent[-1]
    epoch = statistics.median(after - before for before, after in pairwise(spent))
    return spent[0], epoch, ending, statistics.median(rates)


def main() -> None:
    """Print the table, in Markdown."""
    options = Options("tensorboard", __doc__, NETWORKS)
    options.add_argument("--images", type=int, default=50_000, help="of an epoch")
    options.add_argument("--epochs", type=int, default=30, help="of a run")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.workers)
    imported = importing(arguments.rounds)
    print(f"{surroundings(arguments.workers)}; milliseconds, and their share of a run of {arguments.epochs} epochs\n")
    print(f"| network | epoch of {arguments.images:,} images, s | import | beginning | an epoch | end | share |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for network in arguments.networks:
        ours = Ours(network, **arguments.ours)
        beginning, epoch, ending, speed = costs(ours, rounds=arguments.rounds)
        once, seconds = imported + beginning + ending, arguments.images / speed
        share = (once + arguments.epochs * epoch) / (once + arguments.epochs * seconds)
        figures = " | ".join(f"{1000 * spent:,.1f}" for spent in (imported, beginning, epoch, ending))
        print(f"| {network} | {seconds:,.1f} | {figures} | {100 * share:.3f} % |", flush=True)


if __name__ == "__main__":
    main()
