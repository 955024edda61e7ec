"""What a network's answers say of it, from its logits for all images and their labels.

Everything here is a function of `logits` float [N, K] and `labels` int [N] as NumPy arrays; shares are of 1, logarithms
natural. A figure that cannot be had, such as the recall of a class without images, is nan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

BINS = 15  # of the calibration error, as in Guo et al. 2017


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, float64 [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the images, in nats: what training minimises."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def top_accuracy(logits: np.ndarray, labels: np.ndarray, count: int = 1) -> float:
    """Share of the images whose class is among the `count` with the largest logits.

    Of equal logits the earlier class counts as larger, as it does in `predicted`.
    """
    first = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return float((first == labels[:, None]).any(1).mean())


def predicted(logits: np.ndarray) -> np.ndarray:
    """The class with the largest logit, int64 [N]."""
    return logits.argmax(1)


def confidence(logits: np.ndarray) -> np.ndarray:
    """The probability of the class with the largest logit, float64 [N]."""
    return np.exp(log_probabilities(logits).max(1))


def surest_mistakes(labels: np.ndarray, predictions: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """The numbers of the images that are answered wrongly, int64 [n], those with the surest answers first."""
    wrong = np.flatnonzero(predictions != labels)
    return wrong[np.argsort(-confidences[wrong], kind="stable")]


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """The interval that holds the accuracy on all images of this kind with a probability of 95 %.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; it knows of the chance in which
    images were drawn, and nothing of that in training.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class (row) were taken for each class (column), int64 [K, K]."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassFigures:
    """Of one class: how many images it has, and how well it is told from the others."""

    images: int
    precision: float  # share of those taken for it that are
    recall: float  # share of its images that are taken for it: the accuracy on them
    f1: float  # harmonic mean of both


def class_figures(confusion: np.ndarray) -> list[ClassFigures]:
    """Each class's own figures. nan where there is nothing to divide by."""
    hits, taken, images = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / taken, hits / images, 2 * hits / (taken + images)
    figures = zip(images.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return [ClassFigures(*one) for one in figures]


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Class, what it was taken for, and how often; the most frequent first, none that never happened."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    return [(label, taken, int(wrong[label, taken])) for label, taken in pairs if wrong[label, taken]]


def brier_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 to 2.

    Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    probabilities = np.exp(log_probabilities(logits))
    probabilities[np.arange(len(labels)), labels] -= 1
    return float((probabilities**2).sum(1).mean())


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies above `low` and up to `high`: how many, their mean confidence, and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Accuracy against confidence, the largest probability, in bins of equal width; nan in an empty one.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599, sec. 2.
    """
    sure, correct = confidence(logits), predicted(logits) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, of, minlength=bins) / images for of in (sure, correct)]
    columns = (edges[:-1], edges[1:], images, *means)
    return [Bin(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of accuracy from confidence over the images, bin by bin (Guo et al. 2017, eq. 3)."""
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins if one.images) / images


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What to divide logits by so that these images are the likeliest (Guo et al. 2017, sec. 4.2), in 1/100 to 100.

    Fitted on validation images: on the test images it would be chosen by what it is judged by.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits / np.exp(log), labels),
        bounds=(np.log(1 / 100), np.log(100)),
        method="bounded",
    )
    return float(np.exp(found.x))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The probability of at least this much of a difference between two networks on the same images if they were equal.

    `first` and `second` say of each image whether it was answered rightly, bool [N]. Exact, two-sided: of the images on
    which they differ, half should speak for each. McNemar 1947, "Note on the sampling error of the difference between
    correlated proportions or percentages".
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def ensemble(several: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of several networks [N, K] as one's: of the mean of their probabilities."""
    return np.logaddexp.reduce([log_probabilities(logits) for logits in several]) - np.log(len(several))
