"""Classification metrics, from a network's logits for all images and their labels.

Everything here is a function of `logits` float [N, K] and `labels` int [N] as NumPy arrays. Fractions are between 0 and
1, logarithms natural. An undefined metric, such as the recall of a class without images, is nan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

BINS = 15  # of the calibration error, as in Guo et al. 2017


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax of the logits, float64 [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the images, in nats: what training minimises."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def top_accuracy(logits: np.ndarray, labels: np.ndarray, count: int = 1) -> float:
    """Fraction of the images whose label is among the `count` largest logits.

    Of equal logits the lower class index counts as larger, as in `predicted`.
    """
    first = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return float((first == labels[:, None]).any(1).mean())


def predicted(logits: np.ndarray) -> np.ndarray:
    """The class with the largest logit, int64 [N]."""
    return logits.argmax(1)


def confidence(logits: np.ndarray) -> np.ndarray:
    """The probability of the class with the largest logit, float64 [N]."""
    return np.exp(log_probabilities(logits).max(1))


def most_confident_errors(labels: np.ndarray, predictions: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Indices of the misclassified images, int64 [n], most confident first."""
    wrong = np.flatnonzero(predictions != labels)
    return wrong[np.argsort(-confidences[wrong], kind="stable")]


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """95 % confidence interval of the accuracy.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference". It covers the random choice of
    test images, not the randomness of training.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Number of images by label (row) and predicted class (column), int64 [K, K]."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassFigures:
    """Metrics of one class."""

    images: int
    precision: float  # of the images predicted as this class, the fraction that are
    recall: float  # of the images of this class, the fraction predicted as it
    f1: float  # harmonic mean of both


def class_figures(confusion: np.ndarray) -> list[ClassFigures]:
    """Metrics of each class; nan for a division by zero."""
    hits, predictions, images = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / predictions, hits / images, 2 * hits / (predictions + images)
    figures = zip(images.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return [ClassFigures(*one) for one in figures]


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(label, predicted class, count) of the most frequent confusions, most frequent first."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(index), len(confusion)) for index in order]
    return [(label, guess, int(wrong[label, guess])) for label, guess in pairs if wrong[label, guess]]


def brier_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the one-hot labels, summed over classes: 0 to 2.

    Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    probabilities = np.exp(log_probabilities(logits))
    probabilities[np.arange(len(labels)), labels] -= 1
    return float((probabilities**2).sum(1).mean())


@dataclass(frozen=True)
class Bin:
    """Images with confidence in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Accuracy against confidence (the largest probability) in bins of equal width; nan in an empty bin.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599, sec. 2.
    """
    confidences, correct = confidence(logits), predicted(logits) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    images = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, of, minlength=bins) / images for of in (confidences, correct)]
    columns = (edges[:-1], edges[1:], images, *means)
    return [Bin(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean absolute difference between accuracy and confidence, weighted by bin size (Guo et al. 2017, eq. 3)."""
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins if one.images) / images


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature between 1/100 and 100 that minimises the loss of logits / temperature (Guo et al. 2017, sec. 4.2).

    Fit it on validation images, never on the test images.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits / np.exp(log), labels),
        bounds=(np.log(1 / 100), np.log(100)),
        method="bounded",
    )
    return float(np.exp(found.x))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of McNemar's exact two-sided test that two networks are equally accurate on the same images.

    `first` and `second`, bool [N], say which images each network classified correctly. McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages".
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def ensemble(several: Sequence[np.ndarray]) -> np.ndarray:
    """Log of the mean probability of several networks, given their logits [N, K]."""
    return np.logaddexp.reduce([log_probabilities(logits) for logits in several]) - np.log(len(several))
