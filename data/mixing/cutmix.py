"""CutMix: paste a rectangle of another image, and weight the targets by area.

Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019, arXiv 1905.04899, sec. 3.1 and algorithm A1. Rectangles are
clipped at the border, and targets are weighted by the clipped area.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.rectangle import interval


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """A rectangle with the image's aspect ratio, 1 - l of its area with l ~ Beta(alpha, alpha), and a random centre."""

    alpha: float
    probability: float
    per_image: bool

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.hstack([rng.beta(self.alpha, self.alpha, (count, 1)), rng.random((count, 2))])

    def __call__(self, images: Tensor, targets: Tensor, partners: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        side = (1 - numbers[:, 0]).sqrt()
        rows, height = inside(side, numbers[:, 1], images.shape[2])
        columns, width = inside(side, numbers[:, 2], images.shape[3])
        pasted = rows[:, None, :, None] & columns[:, None, None, :]
        share = 1 - (height * width)[:, None] / (images.shape[2] * images.shape[3])
        mixed = torch.where(pasted, images[partners], images)
        return mixed, torch.lerp(targets[partners], targets, share)


def inside(side: Tensor, centre: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Which of `length` pixels are in intervals of relative length `side` around the relative `centre`.

    side, centre: float32 [B], between 0 and 1 -> mask bool [B, length] and its count, int64 [B].
    """
    size = (side * length).long()
    first = (centre * length).long() - size // 2
    within = interval(first, size, length)
    return within, within.sum(1)
