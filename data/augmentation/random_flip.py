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

    Where it is `alternating`, an image that was mirrored in one epoch is not in the next, and the other way about,
    so that any two epochs show both sides of every image. Raises ValueError for any probability but one half with that.
    """

    probability: float
    alternating: bool = False
    place = "flip"
    draws = 1

    def __post_init__(self) -> None:
        if self.alternating and self.probability != 0.5:
            raise ValueError(f"probability={self.probability:g}: with alternating=true it is 0.5")

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """All bits 1 for an image that is mirrored, else 0: uint8 [B, 1, 1, 1]."""
        return 255 * (uniform < self.probability).byte()[:, :, None, None]

    def transform(self, images: Tensor, mirrored: Tensor) -> Tensor:
        # An image with the bits changed in which it differs from its mirror image: torch.where is slow on bytes.
        return images.flip(3).bitwise_xor_(images).bitwise_and_(mirrored).bitwise_xor_(images)
