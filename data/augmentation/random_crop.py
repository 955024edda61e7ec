"""Random crops of padded images, the augmentation of nearly every paper on CIFAR.

Lee et al., "Deeply-Supervised Nets", 2014, arXiv 1409.5185, sec. 4; He et al. 2015, arXiv 1512.03385,
sec. 4.2. The same as torchvision.transforms.RandomCrop(size, padding, padding_mode=...). Mirrored borders are
Wide ResNet's (Zagoruyko and Komodakis 2016, arXiv 1605.07146, sec. 3) and those of the speed records.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation import Operation


@dataclass(frozen=True)
class RandomCrop(Operation):
    """Add `padding` pixels on every side and cut out the old size at a random place.

    The added pixels are black ("constant") or mirror what lies inside the border, the outermost pixels not
    repeated ("reflect").
    """

    padding: int
    padding_mode: str = "constant"
    place = "crop"
    draws = 2

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        corner = (uniform * (2 * self.padding + 1)).long()  # [B, 2]: row and column
        padded = self.padded(images)
        padded_height, padded_width = padded.shape[2:]
        # From each pixel in memory on, the next `width` of them; a crop is a choice of these, row by row. Copying
        # rows takes a sixth of the time of gathering pixels.
        rows = padded.flatten().as_strided((padded.numel() - width + 1, width), (1, 1))
        planes = torch.arange(count * channels, device=images.device).view(count, channels, 1)
        lines = torch.arange(height, device=images.device)
        first = planes * (padded_height * padded_width) + (corner[:, :1] * padded_width + corner[:, 1:])[:, None]
        return rows.index_select(0, (first + lines * padded_width).flatten()).view(images.shape)

    def padded(self, images: Tensor) -> Tensor:
        """Images with pixels added on every side. uint8 [B, C, H, W] -> [B, C, H + 2 padding, W + 2 padding]."""
        if self.padding_mode == "constant":
            return F.pad(images, (self.padding,) * 4)
        # Torch's own reflection has no kernel for bytes on GPUs.
        for dimension in (2, 3):
            last = images.shape[dimension] - 1
            place = torch.arange(-self.padding, last + self.padding + 1, device=images.device) % (2 * last)
            images = images.index_select(dimension, last - (last - place).abs())
        return images
