"""Scale jittering: the image is enlarged by a random factor and cropped to the original size.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
arXiv 1409.1556, sec. 3.1 ("multi-scale training"): there to 256 to 512 pixels, with crops of 224.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augmentation import Operation


@dataclass(frozen=True, kw_only=True)
class ScaleJitter(Operation):
    """Enlarge by a factor from `smallest` to `largest` (bilinear), and crop to the original size at random."""

    smallest: float
    largest: float
    phase = "scale"
    draws = 3

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise ValueError(f"smallest={self.smallest} is greater than largest={self.largest}")

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """The source coordinates of the rows and columns of the crop (see `source`): float32 [B, H + W]."""
        factor, *positions = uniform.T
        factor = self.smallest + factor * (self.largest - self.smallest)
        return torch.cat(
            [source(factor, position, size) for position, size in zip(positions, shape[1:], strict=True)], dim=1
        )

    def transform(self, images: Tensor, sources: Tensor) -> Tensor:
        rows, columns = sources.split(images.shape[2:], dim=1)
        grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=1).permute(0, 2, 3, 1)
        pixels = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return pixels.round_().to(torch.uint8)


def source(factor: Tensor, position: Tensor, size: int) -> Tensor:
    """The coordinates of the crop's pixels in the image, from -1 to 1 as in F.grid_sample.

    factor, position (0 to 1): float32 [B] -> float32 [B, size].
    """
    enlarged = (factor * size).floor()
    first = (position * (enlarged - size + 1)).floor()
    pixel = torch.arange(size, device=factor.device) + 0.5
    return 2 * (first[:, None] + pixel) / enlarged[:, None] - 1
