"""Operations that mix the images of a batch with each other, and their targets with them.

A mixing is a function of a batch, of the order in which its images meet their partners, and of
numbers drawn beforehand; it keeps no generator. Where several are asked for, each batch is given to
one of them, drawn with equal chances; `probability` is the share of those batches that it mixes.
"""

from typing import Protocol

import numpy as np
from torch import Tensor


class Mixing(Protocol):
    """What a mixing is. With `per_image` each image has numbers of its own, otherwise a batch has the same for all."""

    probability: float
    per_image: bool

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random numbers for `count` images, float64 [count, n]."""

    def __call__(self, images: Tensor, targets: Tensor, partners: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed batch; the given one stays as it is.

        images: float32 [B, C, H, W]; targets: probabilities float32 [B, K]; partners: int64 [B], a
        permutation; numbers: float32 [B, n], or [1, n] for the whole batch.
        """
