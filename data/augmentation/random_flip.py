"""Random mirror images, left to right. The same as torchvision.transforms.RandomHorizontalFlip(p).

Alternating: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, sec. 3.6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation


@dataclass(frozen=True)
class RandomFlip(Operation):
    """Mirror an image with the given probability.

    Where it is `alternating`, an image that was mirrored in one epoch is not in the next, and with a probability of
    one half the other way about, so that any two epochs show both sides of every image.
    """

    probability: float
    alternating: bool = False
    place = "flip"
    draws = 1

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """1 for an image that is mirrored, else 0: int64 [B]."""
        return (uniform[:, 0] < self.probability).long()

    def transform(self, images: Tensor, mirrored: Tensor) -> Tensor:
        # Each image or its mirror image, which lies as far behind it as there are images: faster than torch.where.
        count = len(images)
        both = torch.cat([images, images.flip(3)])
        return both.index_select(0, torch.arange(count, device=images.device).add(mirrored, alpha=count))
