"""Reliability diagram, and the most confident errors of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation import metrics
from engine.plotting import plot
from engine.report.network_result import NetworkResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ERRORS = 40


def reliability(networks: Sequence[NetworkResult]) -> "Figure":
    """Reliability diagram: accuracy against confidence; the diagonal is perfect calibration."""
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
class Misclassified:
    """A misclassified image uint8 [C, H, W], its label, predicted class and confidence."""

    pixels: np.ndarray
    label: str
    predicted: str
    confidence: float


def most_confident_errors(network: NetworkResult, count: int = ERRORS) -> list[Misclassified]:
    """The misclassified images, most confident first."""
    labels, predicted = network.labels, metrics.predicted(network.logits)
    confidence = metrics.confidence(network.logits)
    return [
        Misclassified(
            network.images.images[int(index)].cpu().numpy(),
            network.classes[labels[index]],
            network.classes[predicted[index]],
            float(confidence[index]),
        )
        for index in metrics.most_confident_errors(labels, predicted, confidence)[:count]
    ]
