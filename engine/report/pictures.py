"""What a network gets right and wrong, as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation import metrics
from engine.plotting import plot
from engine.report.figures import Examined

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MISTAKES = 40


def reliability(networks: Sequence[Examined]) -> "Figure":
    """Accuracy against confidence: on the diagonal a network is as often right as it says."""
    canvas, (axes,) = plot.figure(width=5, height=4.4)
    axes.plot([0, 1], [0, 1], color=plot.GREY, linewidth=1, linestyle="--")
    for number, network in enumerate(networks):
        bins = [one for one in network.reliability if one.images]
        sizes = [6 + 120 * one.images / len(network.labels) for one in bins]
        confidence, accuracy = [one.confidence for one in bins], [one.accuracy for one in bins]
        colour = plot.COLOURS[number % len(plot.COLOURS)]
        axes.plot(confidence, accuracy, color=colour, linewidth=1.5, label=plot.in_legend(network.name))
        axes.scatter(confidence, accuracy, s=sizes, color=colour, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("confidence (larger points: more images)", color=plot.INK)
    axes.set_ylabel("accuracy", color=plot.INK)
    if len(networks) > 1:
        plot.legend(axes, fontsize=8)
    return canvas


@dataclass(frozen=True)
class Mistake:
    """An image uint8 [C, H, W], what it is, what it was taken for, and how sure the network was of that."""

    pixels: np.ndarray
    label: str
    taken: str
    confidence: float


def worst_mistakes(examined: Examined, count: int = MISTAKES) -> list[Mistake]:
    """The images that the network is surest of and wrong about, the surest first."""
    labels, taken, sure = examined.labels, metrics.predicted(examined.logits), metrics.confidence(examined.logits)
    return [
        Mistake(
            examined.images.images[int(index)].cpu().numpy(),
            examined.classes[labels[index]],
            examined.classes[taken[index]],
            float(sure[index]),
        )
        for index in metrics.surest_mistakes(labels, taken, sure)[:count]
    ]
