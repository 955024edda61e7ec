"""Cutout: a square of the image is painted over with the mean colour.

DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
arXiv 1708.04552, sec. 3.2: its centre is any pixel, so that part of the square may lie outside.
"""

from dataclasses import dataclass

from torch import Tensor

from data.augmentation import Operation
from data.rectangle import interval


@dataclass(frozen=True, kw_only=True)
class Cutout(Operation):
    """A square of `length` pixels about a random pixel becomes 0, the mean colour of normalised images."""

    length: int
    place = "normalised"
    draws = 2

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        rows = self.hidden(uniform[:, 0], images.shape[2])
        columns = self.hidden(uniform[:, 1], images.shape[3])
        return images * (1 - rows[:, None, :, None] * columns[:, None, None, :])

    def hidden(self, uniform: Tensor, size: int) -> Tensor:
        """1 for those of `size` pixels in the square, whose centre is at `uniform` [B] of them: float32 [B, size]."""
        first = (uniform * size).long() - self.length // 2
        return interval(first, self.length, size).to(uniform.dtype)
