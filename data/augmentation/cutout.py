"""Cutout: a square of the image is replaced by the mean colour.

DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
arXiv 1708.04552, sec. 3.2: its centre is any pixel, so that part of the square may be outside.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.rectangle import interval, rectangle


@dataclass(frozen=True, kw_only=True)
class Cutout(Operation):
    """Set a square of `length` pixels around a random pixel to 0, the mean colour of normalised images."""

    length: int
    phase = "normalised"
    draws = 2

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """1 for the rows and columns of the square: float32 [B, H + W]."""
        return torch.cat(
            [self.hidden(position, size) for position, size in zip(uniform.T, shape[1:], strict=True)], dim=1
        )

    def hidden(self, uniform: Tensor, size: int) -> Tensor:
        """1 for the rows or columns of the square, whose centre is at uniform * size: float32 [B, size]."""
        first = (uniform * size).long() - self.length // 2
        return interval(first, self.length, size).to(uniform.dtype)

    def transform(self, images: Tensor, hidden: Tensor) -> Tensor:
        return images * (1 - rectangle(hidden, *images.shape[2:]))
