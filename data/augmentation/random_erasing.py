"""Random erasing: a rectangle of random area and aspect ratio is replaced.

Zhong, Zheng, Kang, Li and Yang, "Random Erasing Data Augmentation", AAAI 2020, arXiv 1708.04896, algorithm 1 and
sec. 4.1. Drawn as in torchvision.transforms.RandomErasing: the aspect ratio is log-uniform (in the paper, uniform),
a rectangle that does not fit is drawn again, and after ten failures the image is not erased.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from data.augmentation import Operation
from data.rectangle import interval, rectangle

ATTEMPTS = 10
WINDOWS = 2**16


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Operation):
    """With `probability`, replace a rectangle of `smallest` to `largest` times the image's area.

    Height / width is between `aspect` and its inverse. fill: "mean" is 0, the mean colour of normalised
    images; "noise" is a normal random number per pixel and channel.
    """

    probability: float
    smallest: float
    largest: float
    aspect: float
    fill: str
    phase = "normalised"
    draws = 4 + 2 * ATTEMPTS

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise ValueError(f"smallest={self.smallest} is greater than largest={self.largest}")

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """1 for the rows and columns to fill, and the image's offset in the table of noise: [B, H + W + 1]."""
        return torch.cat([self.erased(uniform, *shape[1:]), (uniform[:, 3:4] * WINDOWS).floor()], dim=1)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        erased = rectangle(params[:, :-1], *images.shape[2:])
        if self.fill == "mean":
            return images * (1 - erased)
        size = images.shape[1:].numel()
        window = params[:, -1:].long() + torch.arange(size, device=images.device)
        return images.lerp(noise_table(size, images.device)[window].view(images.shape), erased)

    def erased(self, uniform: Tensor, height: int, width: int) -> Tensor:
        """1 for the rows and columns to fill, from random numbers [B, draws]: float32 [B, H + W]."""
        happens, top, left, _ = uniform[:, :4].unbind(1)
        area, proportion = uniform[:, 4:].split(ATTEMPTS, dim=1)  # [B, attempts]
        area = height * width * (self.smallest + area * (self.largest - self.smallest))
        proportion = (math.log(self.aspect) * (1 - 2 * proportion)).exp()
        rows, columns = (area * proportion).sqrt().round(), (area / proportion).sqrt().round()
        fits = (rows < height) & (columns < width)
        first = fits.int().argmax(1, keepdim=True)  # the first of several
        rows, columns = rows.gather(1, first)[:, 0], columns.gather(1, first)[:, 0]
        happens = (happens < self.probability) & fits.any(1)
        rows = interval((top * (height - rows + 1)).floor(), rows, height).to(uniform.dtype)
        columns = interval((left * (width - columns + 1)).floor(), columns * happens, width).to(uniform.dtype)
        return torch.cat([rows, columns], dim=1)


@lru_cache
def noise_table(size: int, device: torch.device) -> Tensor:
    """Normal random numbers; each of its 65,536 windows of `size` values is the noise of an image."""
    return torch.randn(WINDOWS + size, generator=torch.Generator().manual_seed(0)).to(device)
