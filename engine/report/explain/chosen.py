"""Which classes and images are shown, as there is no room for all."""

from collections.abc import Sequence

import numpy as np

CLASSES = 10


def shown_classes(labels: np.ndarray, count: int) -> list[int]:
    """Of `count` classes those that are shown: all that have images, or of many CLASSES at even distances."""
    there = [number for number in range(count) if (labels == number).any()]
    return [there[round(place)] for place in np.linspace(0, len(there) - 1, min(len(there), CLASSES))]


def first_of_each(labels: np.ndarray, classes: Sequence[int], count: int) -> list[int]:
    """The first `count` images of each of these classes, by their numbers; a label of -1 is none of any class."""
    return [int(number) for label in classes for number in np.flatnonzero(labels == label)[:count]]
