"""Random crops of padded images, the augmentation of nearly every paper on CIFAR.

Lee et al., "Deeply-Supervised Nets", 2014, arXiv 1409.5185, sec. 4; He et al. 2015, arXiv 1512.03385,
sec. 4.2. The same as torchvision.transforms.RandomCrop(size, padding).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation import Operation


@dataclass(frozen=True)
class RandomCrop(Operation):
    """Add `padding` black pixels on every side and cut out the old size at a random place."""

    padding: int
    place = "crop"
    draws = 2

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        corner = (uniform * (2 * self.padding + 1)).long()  # [B, 2]: row and column
        padded_width = width + 2 * self.padding
        first = corner[:, 0] * padded_width + corner[:, 1]  # [B], in the flat image
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        pixels = first[:, None, None] + (rows[:, None] * padded_width + columns).view(1, 1, height * width)
        padded = F.pad(images, (self.padding,) * 4).flatten(2)
        return padded.gather(2, pixels.expand(-1, channels, -1)).view(images.shape)
