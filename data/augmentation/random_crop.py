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
        count, channels, height, width = images.shape
        corner = (uniform * (2 * self.padding + 1)).long()  # [B, 2]: row and column
        padded = F.pad(images, (self.padding,) * 4)
        padded_height, padded_width = padded.shape[2:]
        # From each pixel in memory on, the next `width` of them; a crop is a choice of these, row by row. Copying
        # rows takes a sixth of the time of gathering pixels.
        rows = padded.flatten().as_strided((padded.numel() - width + 1, width), (1, 1))
        planes = torch.arange(count * channels, device=images.device).view(count, channels, 1)
        lines = torch.arange(height, device=images.device)
        first = planes * (padded_height * padded_width) + (corner[:, :1] * padded_width + corner[:, 1:])[:, None]
        return rows.index_select(0, (first + lines * padded_width).flatten()).view(images.shape)
