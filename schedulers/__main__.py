"""Plot learning-rate schedules before training: python -m schedulers [group=option ...] [key=value ...].

This is an entry point like train.py, and the only file here that imports the engine.
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from engine.config.check import check
from engine.config.command import initialized, refuse_flag, register_resolvers
from engine.config.did_you_mean import CONF
from engine.config.overrides import MISTAKES, jobs
from engine.config.resume import with_resumed
from engine.config.schedule import dataset_facts, learning_rate_scale, make_schedule, steps_per_epoch
from engine.plotting import plot
from engine.plotting.terminal import Axis, chart, printable, shortened, side_by_side
from engine.run.console import echo
from engine.run.errors import CommandError
from engine.run.exit import exit_with_error
from schedulers import metric_schedule

HELP = """\
Plot the learning rate of a run without training. Arguments are those of train.py; several values, as
in scheduler=cosine,htd,step, are plotted together.

  python -m schedulers scheduler=htd trainer.max_epochs=100
  python -m schedulers scheduler=cosine,htd,step scheduler.warmup_epochs=5
  python -m schedulers scheduler=polynomial scheduler.power=1,2,3 optimizer=adamw
"""
POINTS = 1000  # minimum number of points of a curve
SHARES = ((0, 0.1, 0.25, 0.5, 0.75, 0.9, 1), (0, 0.25, 0.5, 0.75, 1), (0, 0.5, 1))  # of the run, in the table
WIDTH = 80
MOST_IN_ONE = 6  # curves in one figure; more get a subplot each


@dataclass(frozen=True)
class Curve:
    """The learning rate by epoch, and the name of the configuration."""

    name: str
    rates: dict[float, float]


def main() -> None:
    """Parse the arguments and plot."""
    options = textwrap.fill(", ".join(sorted(file.stem for file in (CONF / "scheduler").glob("*.yaml"))), WIDTH)
    parser = argparse.ArgumentParser(
        prog="python -m schedulers",
        description=f"{HELP}\nscheduler is one of\n{options}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides, as for train.py")
    parser.add_argument("--log", action="store_true", help="use a logarithmic axis for the learning rate")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", default=Path("outputs/schedule.png"), help="figure to write (%(default)s)"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="directory with options of your own, as for train.py")
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)  # several values need no flag
    parser.error = refuse_flag
    register_resolvers()
    try:
        arguments = parser.parse_intermixed_args()
        if arguments.png.suffix != ".png":
            raise CommandError(f"--png {arguments.png}: the file name must end in .png")
        with initialized(arguments.config_dir):
            chosen = list(jobs(with_resumed(arguments.words, multirun=False), multirun=True))
            configs = [with_number(check("config", job)) for job in chosen]
        curves = [curve(config, name) for config, name in zip(configs, names(chosen, configs), strict=True)]
    except MISTAKES as error:
        exit_with_error(error)
    x, y = axes(curves, configs, log=arguments.log)
    print_lines([f"learning rate by epoch {title(chosen)}".rstrip(), *terminal(curves, x, y), ""])
    print_lines([*table(curves), *notes(configs), ""])
    try:
        draw(curves, x, y, title=title(chosen), file=arguments.png)
    except OSError as error:
        exit_with_error(error)
    print_lines([f"figure: {arguments.png}"])


def curve(config: DictConfig, name: str) -> Curve:
    """The learning rate over a run; for a `MetricSchedule`, as if the metric never improved."""
    schedule, lr = make_schedule(config, steps_per_epoch=steps_of(config)), learning_rate(config)
    metric, epochs, rates = metric_schedule(schedule), config.trainer.max_epochs, {}
    parts = math.ceil(POINTS / epochs)
    for epoch in range(epochs):
        for part in range(parts):
            rates[epoch + part / parts] = lr * schedule(epoch + part / parts)
        if metric:
            metric.step({"epoch": epoch + 1, "train_loss": 1.0, "train_accuracy": 0.0})
    rates[epochs] = lr * schedule(epochs)
    return Curve(f"{name} (earliest)" if metric else name, rates)


def with_number(config: DictConfig) -> DictConfig:
    """Replace trainer.batch_size=auto, which only the run can resolve, by trainer.lr_batch_size."""
    if config.trainer.batch_size == "auto":
        config.trainer.batch_size = config.trainer.lr_batch_size
    return config


def learning_rate(config: DictConfig) -> float:
    """The full learning rate, which the schedule's factor multiplies."""
    return learning_rate_scale(config) * config.optimizer.lr


def steps_of(config: DictConfig) -> int:
    """Steps per epoch; those of CIFAR if the number of images is known only from the data."""
    return steps_per_epoch(config, dataset_facts(config.dataset).get("train_size", 50_000))


# Text


def names(chosen: Sequence[Sequence[Override]], configs: Sequence[DictConfig]) -> list[str]:
    """A name for each curve: the arguments in which it differs from the others, or its scheduler option."""
    varied = [len(set(words)) > 1 for words in zip(*map(lines, chosen), strict=True)]
    found = [", ".join(brief(word) for word, is_ in zip(lines(job), varied, strict=True) if is_) for job in chosen]
    return [name or config.hydra.runtime.choices.scheduler for name, config in zip(found, configs, strict=True)]


def title(chosen: Sequence[Sequence[Override]]) -> str:
    """The arguments that all curves have in common."""
    common = [words[0] for words in zip(*map(lines, chosen), strict=True) if len(set(words)) == 1]
    return " ".join(word for word in common if not word.startswith(("hydra.", "resume", "scheduler=")))


def lines(job: Sequence[Override]) -> list[str]:
    """The arguments of a job, as typed."""
    return [str(override.input_line) for override in job]


def brief(word: str) -> str:
    """An argument in short form: scheduler=htd as htd, scheduler.power=2 as power=2."""
    key, _, value = word.partition("=")
    return value if key == "scheduler" else f"{key.rpartition('.')[2]}={value}"


def table(curves: Sequence[Curve]) -> list[str]:
    """The learning rate of each curve at a few epochs."""
    last, width = max(max(curve.rates) for curve in curves), max(len("epoch"), *(len(curve.name) for curve in curves))
    shares = next((shares for shares in SHARES if width + 8 * len(shares) <= WIDTH), SHARES[-1])
    epochs, width = sorted({round(share * last) for share in shares}), min(width, WIDTH - 8 * len(shares))
    found = [f"{'epoch':<{width}}" + "".join(f"{epoch:>8}" for epoch in epochs)]
    for curve in curves:
        rates = [f"{curve.rates[epoch]:.2g}" if epoch in curve.rates else "-" for epoch in epochs]
        found.append(f"{shortened(curve.name, width):<{width}}" + "".join(f"{rate:>8}" for rate in rates))
    return found


def notes(configs: Sequence[DictConfig]) -> list[str]:
    """The assumptions of the figure."""
    found = []
    if any(metric_schedule(make_schedule(config)) for config in configs):
        found.append("(earliest): assumes no improvement after the first epoch; it may decay later.")
    if steps := {steps_of(config) for config in configs if config.scheduler.warmup_steps}:
        found.append(f"The warmup is plotted for {' or '.join(map(str, sorted(steps)))} steps per epoch.")
    return ["", *found] if found else []


# Figures


def axes(curves: Sequence[Curve], configs: Sequence[DictConfig], *, log: bool) -> tuple[Axis, Axis]:
    """Axes that fit all curves; a logarithmic one spans at most four decades."""
    high = max(map(learning_rate, configs))
    low = max(min(rate for curve in curves for rate in curve.rates.values() if rate > 0), high * 1e-4) if log else 0
    return Axis(0, max(max(curve.rates) for curve in curves)), Axis(low, high, log)


def terminal(curves: Sequence[Curve], x: Axis, y: Axis) -> list[str]:
    """One large chart, or rows of two or three small ones, depending on the length of the names."""
    in_row = min(len(curves), max(WIDTH // max(len(curve.name) + 6 for curve in curves), 1), 3)
    gap, height = {1: (0, 16), 2: (2, 9), 3: (2, 7)}[in_row]
    found = []
    for first in range(0, len(curves), in_row):
        charts = [
            chart(list(c.rates.items()), x=x, y=y, width=WIDTH // in_row - gap, height=height, title=c.name)
            for c in curves[first : first + in_row]
        ]
        found += ["", *side_by_side(charts, width=WIDTH // in_row * len(charts))]
    return found


def draw(curves: Sequence[Curve], x: Axis, y: Axis, *, title: str, file: Path) -> None:
    """Save one figure with all curves or, for many curves, with a subplot for each."""
    in_row = 1 if len(curves) <= MOST_IN_ONE else 5
    rows = math.ceil(len(curves) / in_row) if in_row > 1 else 1
    canvas, panels = plot.figure(width=max(7.5, 2.2 * in_row), height=max(4.2, 1.7 * rows), rows=rows, columns=in_row)
    for number, curve in enumerate(curves):
        panel, colour = (panels[0], plot.COLOURS[number]) if in_row == 1 else (panels[number], plot.COLOURS[0])
        epochs, rates = list(curve.rates.keys()), list(curve.rates.values())
        panel.plot(epochs, rates, color=colour, linewidth=2, label=curve.name, clip_on=y.log, zorder=3)
        if len(curves) == 1 or in_row > 1:
            panel.fill_between(epochs, rates, color=colour, alpha=0.08, linewidth=0)
            panel.set_title(curve.name, fontsize=10, color=plot.INK, loc="left")
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for panel in panels[: len(curves)][-in_row:]:
        panel.tick_params(labelbottom=True)
    if y.log:
        panels[0].set_yscale("log")
    panels[0].set_xlim(0, x.high)
    panels[0].set_ylim(y.low, y.high * (1.2 if y.log else 1.04))
    if in_row == 1 < len(curves):
        panels[0].legend(
            frameon=False, fontsize=9.5, labelcolor=plot.INK, ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1)
        )
    canvas.supxlabel("epoch", fontsize=10, color=plot.INK)
    canvas.supylabel("learning rate", fontsize=10, color=plot.INK)
    canvas.suptitle(title, x=0.99, ha="right", fontsize=9, color=plot.GREY)
    plot.save(canvas, file)


def print_lines(lines: Sequence[str]) -> None:
    """Print the lines."""
    echo(printable("\n".join(lines), sys.stdout.encoding))


if __name__ == "__main__":
    main()
