"""The figures of an evaluation against independent implementations, on random and on degenerate answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from engine.evaluation import metrics
from tests.support.logits import CLASSES, KINDS, answers


@pytest.fixture(params=KINDS)
def case(request) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of each kind."""
    return answers(request.param)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """By torch, in double precision."""
    return torch.from_numpy(logits).double().softmax(1).numpy()


def test_likelihood(case):
    logits, labels = case
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(float(theirs), rel=1e-12, abs=1e-12)


def test_likelihood_as_scikit_learn_has_it():
    logits, labels = answers("random")
    theirs = log_loss(labels, probabilities(logits), labels=range(CLASSES))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, CLASSES, CLASSES + 3])
def test_top_accuracy(case, count):
    """scikit-learn prefers the later class of two with the same logit, and so is shown the classes in reverse."""
    logits, labels = case
    mirrored = (
        top_k_accuracy_score(CLASSES - 1 - labels, logits[:, ::-1], k=min(count, CLASSES), labels=range(CLASSES))
        if count < CLASSES
        else 1.0
    )
    assert metrics.top_accuracy(logits, labels, count) == pytest.approx(mirrored)


def test_confusion_and_the_figures_of_each_class(case):
    logits, labels = case
    taken = metrics.predicted(logits)
    confusion = metrics.confusion_matrix(labels, taken, CLASSES)
    assert (confusion == confusion_matrix(labels, taken, labels=range(CLASSES))).all()
    assert np.trace(confusion) / len(labels) == pytest.approx(accuracy_score(labels, taken))
    theirs = precision_recall_fscore_support(labels, taken, labels=range(CLASSES), zero_division=np.nan)
    ours = metrics.class_figures(confusion)
    np.testing.assert_allclose([one.precision for one in ours], theirs[0])
    np.testing.assert_allclose([one.recall for one in ours], theirs[1])
    np.testing.assert_allclose([one.f1 for one in ours], theirs[2])
    assert [one.images for one in ours] == theirs[3].tolist()


def test_the_pairs_confused_most():
    confusion = np.array([[5, 2, 0], [4, 1, 0], [0, 2, 9]])
    assert metrics.most_confused(confusion, 2) == [(1, 0, 4), (0, 1, 2)]
    assert metrics.most_confused(confusion, 99) == [(1, 0, 4), (0, 1, 2), (2, 1, 2)]
    assert metrics.most_confused(np.diag([3, 4]), 5) == []


def test_brier_score(case):
    logits, labels = case
    theirs = brier_score_loss(labels, probabilities(logits), labels=range(CLASSES), scale_by_half=False)
    assert metrics.brier_score(logits, labels) == pytest.approx(theirs, abs=1e-12)


def test_calibration_error_one_image_at_a_time(case):
    """Guo et al. 2017, eq. 2 and 3, written down as they stand."""
    logits, labels = case
    confidences, right = probabilities(logits).max(1), logits.argmax(1) == labels
    error = 0.0
    for number in range(15):
        inside = [
            index
            for index, confidence in enumerate(confidences)
            if number / 15 < confidence <= (number + 1) / 15 or (confidence > 1 and number == 14)
        ]
        if inside:
            gap = np.mean([right[index] for index in inside]) - np.mean([confidences[index] for index in inside])
            error += len(inside) / len(labels) * abs(gap)
    bins = metrics.reliability(logits, labels)
    assert sum(one.images for one in bins) == len(labels)
    assert metrics.expected_calibration_error(bins) == pytest.approx(error, abs=1e-9)


def test_calibration_error_by_hand():
    """Four images of two classes, 0.8 sure of each: three right. And one that is 0.6 sure, and wrong."""
    sure, half = math.log(0.8 / 0.2), math.log(0.6 / 0.4)
    logits = np.array([[sure, 0], [sure, 0], [sure, 0], [sure, 0], [half, 0]], np.float32)
    bins = metrics.reliability(logits, np.array([0, 0, 0, 1, 1]), bins=10)
    filled = [(round(one.low, 1), one.images, one.accuracy) for one in bins if one.images]
    assert [images for _, images, _ in filled] == [1, 4]
    assert [accuracy for *_, accuracy in filled] == [0, 0.75]
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.8 * 0.05 + 0.2 * 0.6, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_logits_were_drawn_with_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, CLASSES)).astype(np.float32)
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    assert metrics.fitted_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03)


def test_a_temperature_has_bounds(case):
    """Within them no temperature nearby is better."""
    logits, labels = case
    found = metrics.fitted_temperature(logits, labels)
    assert 0.01 <= found <= 100
    for other in (max(0.9 * found, 0.01), min(1.1 * found, 100)):
        loss, another = (metrics.negative_log_likelihood(logits / value, labels) for value in (found, other))
        assert loss <= another * (1 + 1e-5), "the search ends a little before a bound"


@given(st.integers(1, 10_000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_interval_of_the_accuracy(correct_of_images):
    correct, images = correct_of_images
    low, high = proportion_confint(correct, images, alpha=0.05, method="wilson")
    assert metrics.accuracy_interval(correct, images) == pytest.approx((low, high), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar(pairs):
    first, second = np.array(pairs).T
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert metrics.mcnemar(first, second) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_an_ensemble_is_the_mean_of_probabilities(case):
    logits, labels = case
    others = [logits, logits[:, ::-1], np.zeros_like(logits)]
    mean = np.mean([probabilities(np.ascontiguousarray(one)) for one in others], axis=0)
    np.testing.assert_allclose(probabilities(metrics.ensemble(others)), mean, atol=1e-12)
    alone = metrics.ensemble([logits])
    assert metrics.negative_log_likelihood(alone, labels) == pytest.approx(
        metrics.negative_log_likelihood(logits, labels), rel=1e-9, abs=1e-9
    )
