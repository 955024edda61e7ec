"""Random mirror images, left to right. The same as torchvision.transforms.RandomHorizontalFlip(p)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation


@dataclass(frozen=True)
class RandomFlip(Operation):
    """Mirror an image with the given probability."""

    probability: float
    place = "flip"
    draws = 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        # Where all bits of the mask are set, what the mirror image has other; a fourth of the time of torch.where.
        mask = ((uniform < self.probability) * 255).to(torch.uint8)[:, :, None, None]
        return images ^ ((images ^ images.flip(3)) & mask)
