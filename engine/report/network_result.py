"""All metrics of trained networks on their test images, as plain data."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Images
from engine.build.from_checkpoint import EvalData, Trained
from engine.evaluation import metrics
from engine.evaluation.evaluate import predict
from engine.report.parts import progress_bar
from engine.run.errors import RunError

CONFUSED = 10  # pairs of classes that are named


class NotComparable(RunError):
    """The networks were not tested on the same images; the message is one line that says which."""


@dataclass(frozen=True)
class NetworkResult:
    """A network and its logits float32 [N, K] on the test images; `val` are logits and labels of held-out images."""

    name: str
    file: Path
    weights: str
    tta: str
    classes: Sequence[str]
    images: Images
    held_out: Images
    logits: np.ndarray
    labels: np.ndarray
    val: tuple[np.ndarray, np.ndarray] | None
    parameters: int
    images_per_second: float

    @property
    def correct(self) -> np.ndarray:
        """Which images are classified correctly, bool [N]."""
        return metrics.predicted(self.logits) == self.labels

    @cached_property
    def confusion(self) -> np.ndarray:
        """Confusion matrix, int64 [K, K]."""
        return metrics.confusion_matrix(self.labels, metrics.predicted(self.logits), len(self.classes))

    @cached_property
    def reliability(self) -> list[metrics.Bin]:
        """Accuracy against confidence."""
        return metrics.reliability(self.logits, self.labels)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The content of evaluation.json: plain data, None for an undefined metric."""
        correct, images = int(self.correct.sum()), len(self.labels)
        return {
            "checkpoint": str(self.file),
            "weights": self.weights,
            "tta": self.tta,
            "images": images,
            "parameters": self.parameters,
            "images_per_second": self.images_per_second,
            "accuracy": correct / images,
            "accuracy_interval": list(metrics.accuracy_interval(correct, images)),
            "top5_accuracy": metrics.top_accuracy(self.logits, self.labels, 5),
            "loss": metrics.negative_log_likelihood(self.logits, self.labels),
            "brier_score": metrics.brier_score(self.logits, self.labels),
            "expected_calibration_error": metrics.expected_calibration_error(self.reliability),
            "calibrated": self.calibrated(),
            "classes": {
                name: {"images": one.images, **plain(precision=one.precision, recall=one.recall, f1=one.f1)}
                for name, one in zip(self.classes, metrics.class_figures(self.confusion), strict=True)
            },
            "most_confused": [
                {"class": self.classes[label], "predicted": self.classes[guess], "images": count}
                for label, guess, count in metrics.most_confused(self.confusion, CONFUSED)
            ],
            "confusion": self.confusion.tolist(),
        }

    def calibrated(self) -> dict[str, float] | None:
        """Metrics after temperature scaling; None without validation images to fit it on."""
        if self.val is None:
            return None
        temperature = metrics.fitted_temperature(*self.val)
        cooler = self.logits / temperature
        return {
            "temperature": temperature,
            "fitted_on": len(self.val[1]),
            "loss": metrics.negative_log_likelihood(cooler, self.labels),
            "brier_score": metrics.brier_score(cooler, self.labels),
            "expected_calibration_error": metrics.expected_calibration_error(metrics.reliability(cooler, self.labels)),
        }


def plain(**figures: float) -> dict[str, float | None]:
    """Metrics with None in place of nan, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def network_result(
    trained: Trained, images: EvalData, file: Path, name: str, *, held_out: bool = True
) -> NetworkResult:
    """Run a network on the test images and, if `held_out`, on the images held out from its training."""
    logits_of = partial(predict, trained.model, precision=trained.precision, views=trained.views)
    begun = time.perf_counter()
    logits, labels = logits_of(progress_bar(images.test, name, "batch"))
    seconds = time.perf_counter() - begun
    val = None
    if held_out and len(images.val):
        val = logits_of(progress_bar(images.val, f"{name}, held-out images", "batch"))
    return NetworkResult(
        name=name if trained.weights == "model" else f"{name}, {trained.weights}",
        file=file,
        weights=trained.weights,
        tta=trained.tta,
        classes=trained.classes,
        images=images.test.images,
        held_out=images.val.images,
        logits=logits.numpy(),
        labels=labels.numpy(),
        val=val and tuple(values.numpy() for values in val),
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        images_per_second=len(labels) / seconds,
    )


def require_same_images(several: Sequence[NetworkResult]) -> None:
    """Raise NotComparable unless all were tested on the same images in the same order."""
    first = several[0]
    for other in several[1:]:
        if list(first.classes) != list(other.classes) or not are_same(first.images, other.images):
            raise NotComparable(f"{first.name} and {other.name} were not tested on the same images")


def are_same(some: Images, others: Images) -> bool:
    """Whether these are the same images with the same labels in the same order."""
    if some.images.shape != others.images.shape:
        return False
    return torch.equal(some.images, others.images) and torch.equal(some.labels, others.labels)


def ensemble(several: Sequence[NetworkResult]) -> NetworkResult:
    """The ensemble of all networks: the mean of their probabilities.

    It has `val`, to fit a temperature, if the same images were held out from all of them.
    """
    first, held_out = several[0], [one.val for one in several]
    alike = first.val is not None and all(are_same(first.held_out, other.held_out) for other in several)
    return NetworkResult(
        name=f"ensemble of {len(several)}",
        file=Path(),
        weights="model",
        tta=first.tta if len({one.tta for one in several}) == 1 else "that of each",
        classes=first.classes,
        images=first.images,
        held_out=first.held_out,
        logits=metrics.ensemble([one.logits for one in several]),
        labels=first.labels,
        val=(metrics.ensemble([val[0] for val in held_out]), held_out[0][1]) if alike else None,
        parameters=sum(one.parameters for one in several),
        images_per_second=1 / sum(1 / one.images_per_second for one in several),
    )


def comparison(first: NetworkResult, other: NetworkResult) -> dict[str, float]:
    """How `other` differs from `first` on the same images."""
    both = metrics.predicted(first.logits) == metrics.predicted(other.logits)
    return {
        "difference": float(other.correct.mean() - first.correct.mean()),
        "mcnemar_p": metrics.mcnemar(first.correct, other.correct),
        "agreement": float(both.mean()),
        "both_wrong": float((~first.correct & ~other.correct).mean()),
    }
