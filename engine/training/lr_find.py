"""The learning-rate range test: find a learning rate in a few hundred steps.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv 1506.01186, sec. 3.3:
raise the learning rate while the network trains, and see where the loss falls and where it
diverges. Here it rises exponentially, as is usual now, so that one test works for every optimizer.
"""

import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data.loader import TrainLoader
from engine.plotting import plot
from engine.plotting.terminal import Axis, chart, printable
from engine.run.console import logger
from engine.run.directory import RunDirectory
from engine.training.state import TrainState
from engine.training.step import TrainStep, scale_learning_rate

FIRST, LAST, STEPS = 1e-6, 10.0, 350  # 50 steps a decade

DIVERGED = 4.0  # times the lowest loss

BELOW = 3.0  # suggest the learning rate of the lowest loss divided by this, see docs/schedulers.md


def suggest(
    state: TrainState, train: TrainLoader, train_step: TrainStep, *, lr: float, run: RunDirectory, words: Sequence[str]
) -> None:
    """Run a range test, plot it, and print the suggested learning rate.

    `lr` is the learning rate that the optimizer was built with, `words` are the command-line arguments. The weights
    of `state` are unusable afterwards.
    """
    rates, losses = range_test(state, train, train_step, lr=lr)
    if len(rates) < 2:
        logger.info("no suggestion: the loss is NaN or inf from the start")
        return
    smooth = smoothed(losses)
    found = suggested(rates, losses, smooth)
    low, high = min(smooth), smooth[0] + (smooth[0] - min(smooth)) / 2
    end = next((step for step, loss in enumerate(smooth) if loss > high), len(smooth))
    x, y = Axis(FIRST, rates[-1], log=True), Axis(low, high)
    title = "loss by learning rate, smoothed"
    lines = chart(list(zip(rates, smooth, strict=True))[:end], x=x, y=y, width=80, height=14, title=title)
    logger.info(printable("\n".join(["", *lines, ""]), sys.stdout.encoding))
    draw(rates, losses, smooth, found, x, y, file=run.range_test)
    logger.info(f"figure: {run}/{run.range_test.name}")
    if found is None:
        logger.info("no suggestion: the loss fell at no learning rate")
        return
    logger.info(f"suggestion: {found:g}, a third of where the smoothed loss was lowest")
    kept = [word for word in words if not word.lstrip("+").startswith(("lr_find=", "optimizer.lr="))]
    logger.info(f"to train with it: {shlex.join(['python', 'train.py', *kept, f'optimizer.lr={found:g}'])}")


def range_test(
    state: TrainState, train: TrainLoader, train_step: TrainStep, *, lr: float
) -> tuple[list[float], list[float]]:
    """Train with a rising learning rate until the loss diverges: (learning rates, losses).

    Parameter groups with different learning rates keep their ratio. The stopping rule reads the loss, so each step
    waits for the device.
    """
    rates, losses, lowest = [], [], math.inf
    batches = (batch for epoch in range(STEPS) for batch in train.epoch(epoch))
    state.model.train()
    for step in tqdm(range(STEPS), desc="range test", unit="step", leave=False, disable=None):
        rate = FIRST * (LAST / FIRST) ** (step / (STEPS - 1))
        scale_learning_rate(state.optimizer, rate / lr)
        train_step(state, *next(batches))
        totals = state.read_and_reset_totals()
        loss = totals.loss if totals.images else math.nan  # a skipped step adds nothing to the totals
        recent = [*losses[-4:], loss]
        mean = sum(recent) / len(recent)
        lowest = min(lowest, mean)
        if not math.isfinite(loss) or mean > DIVERGED * lowest:
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses


def smoothed(losses: Sequence[float], width: float = 8.0) -> list[float]:
    """The losses smoothed by a Gaussian with a standard deviation of `width` steps."""
    found = []
    for centre in range(len(losses)):
        near = range(max(centre - round(3 * width), 0), min(centre + round(3 * width) + 1, len(losses)))
        weights = [math.exp(-(((step - centre) / width) ** 2) / 2) for step in near]
        found.append(sum(weight * losses[step] for weight, step in zip(weights, near, strict=True)) / sum(weights))
    return found


def suggested(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float]) -> float | None:
    """The suggested learning rate, to two digits; None if the loss fell by no more than its noise."""
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    scatter = statistics.median(abs(losses[step] - smooth[step]) for step in range(lowest + 1))
    if smooth[0] - smooth[lowest] <= 2 * scatter:
        return None
    return float(f"{rates[lowest] / BELOW:.1e}")


def draw(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    found: float | None,
    x: Axis,
    y: Axis,
    *,
    file: Path,
) -> None:
    """Plot the raw and smoothed losses, and the suggestion."""
    canvas, (panel,) = plot.figure(width=7.5, height=4.2)
    panel.plot(rates, losses, color=plot.COLOURS[0], alpha=0.25, linewidth=1, label="each step")
    panel.plot(rates, smooth, color=plot.COLOURS[0], linewidth=2, label="smoothed")
    if found is not None:
        panel.axvline(
            found, color=plot.COLOURS[1], linewidth=1.5, linestyle=(0, (4, 2)), label=f"suggestion: {found:g}"
        )
    room = (y.high - y.low) / 10 or 0.1
    panel.set(xscale="log", xlim=(x.low, x.high), ylim=(y.low - room, y.high + room))
    panel.set_xlabel("learning rate", color=plot.INK)
    panel.set_ylabel("loss", color=plot.INK)
    panel.legend(frameon=False, fontsize=9.5, labelcolor=plot.INK, loc="lower left")
    plot.save(canvas, file)
