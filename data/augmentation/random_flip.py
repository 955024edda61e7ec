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
        # Each image or its mirror image, which lies as far behind it as there are images: faster than torch.where.
        count, mirrored = len(images), uniform[:, 0] < self.probability
        both = torch.cat([images, images.flip(3)])
        return both.index_select(0, torch.arange(count, device=images.device) + count * mirrored)
