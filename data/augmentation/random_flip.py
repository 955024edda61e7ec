"""Random horizontal flips. The same as torchvision.transforms.RandomHorizontalFlip(p).

Alternating: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, sec. 3.6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation


@dataclass(frozen=True)
class RandomFlip(Operation):
    """Flip an image horizontally with the given probability.

    If `alternating`, an image is flipped in every other epoch, so that two consecutive epochs show both versions of
    every image; raises ValueError unless the probability is then 0.5.
    """

    probability: float
    alternating: bool = False
    phase = "flip"
    draws = 1

    def __post_init__(self) -> None:
        if self.alternating and self.probability != 0.5:
            raise ValueError(f"probability={self.probability:g}: with alternating=true it must be 0.5")

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """255 (all bits 1) for an image to flip, else 0: uint8 [B, 1, 1, 1]."""
        return 255 * (uniform < self.probability).byte()[:, :, None, None]

    def transform(self, images: Tensor, flipped: Tensor) -> Tensor:
        # Selects by XOR with the differing bits: torch.where is slow on bytes.
        return images.flip(3).bitwise_xor_(images).bitwise_and_(flipped).bitwise_xor_(images)
