"""Mixup: weighted means of two images and of their targets.

Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv
1710.09412, sec. 2 and fig. 1: partners come from the same batch, with one weight per batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """share * image + (1 - share) * partner with share ~ Beta(alpha, alpha); likewise for the targets."""

    alpha: float
    probability: float
    per_image: bool

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.beta(self.alpha, self.alpha, (count, 1))

    def __call__(self, images: Tensor, targets: Tensor, partners: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        share = numbers[:, :1]
        mixed = torch.lerp(images[partners], images, share[:, :, None, None])
        return mixed, torch.lerp(targets[partners], targets, share)
