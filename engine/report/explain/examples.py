"""Selection of the classes and images that are shown."""

from collections.abc import Sequence

import numpy as np

CLASSES = 10


def shown_classes(labels: np.ndarray, count: int) -> list[int]:
    """Classes with images, out of `count`; at most CLASSES, evenly spaced."""
    present = [number for number in range(count) if (labels == number).any()]
    return [present[round(index)] for index in np.linspace(0, len(present) - 1, min(len(present), CLASSES))]


def first_of_each(labels: np.ndarray, classes: Sequence[int], count: int) -> list[int]:
    """Indices of the first `count` images of each of these classes; images with label -1 are ignored."""
    return [int(number) for label in classes for number in np.flatnonzero(labels == label)[:count]]
