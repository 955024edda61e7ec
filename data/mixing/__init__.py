"""Operations that mix the images of a batch, and their targets.

A mixing is a function of a batch, a permutation that assigns partners, and random numbers drawn
beforehand; it has no generator. With several mixings, each batch uses one of them, chosen with equal
probability; `probability` is the fraction of those batches that it mixes.
"""

from typing import Protocol

import numpy as np
from torch import Tensor


class Mixing(Protocol):
    """The protocol of a mixing. `per_image` draws random numbers for each image instead of once per batch."""

    probability: float
    per_image: bool

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random numbers for `count` images, float64 [count, n]."""

    def __call__(self, images: Tensor, targets: Tensor, partners: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed batch; the inputs are not modified.

        images: float32 [B, C, H, W]; targets: probabilities float32 [B, K]; partners: int64 [B], a
        permutation; numbers: float32 [B, n], or [1, n] for the whole batch.
        """
