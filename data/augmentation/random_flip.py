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
        return torch.where(uniform.view(-1, 1, 1, 1) < self.probability, images.flip(3), images)
