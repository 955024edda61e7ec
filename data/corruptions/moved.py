"""Small translations and rotations, with reflection padding."""

import math

import torch
from torch import Tensor

from data.corruptions.pixels import as_numbers, looked_up


def translated(images: Tensor, pixels: int) -> Tensor:
    """Shift uint8 [N, C, H, W] by fewer than W pixels to the right; negative: to the left."""
    last = images.shape[3] - 1
    source = (torch.arange(last + 1) - pixels).abs()
    return images[..., last - (last - source).abs()]


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Rotate uint8 [N, C, H, W] about the centre, counter-clockwise, with linear interpolation."""
    count, _, height, width = images.shape
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    y, x = down - (height - 1) / 2, across - (width - 1) / 2
    source_x, source_y = cosine * x - sine * y + (width - 1) / 2, sine * x + cosine * y + (height - 1) / 2
    positions = (position.expand(count, height, width) for position in (source_x, source_y))
    return (255 * looked_up(as_numbers(images), *positions, edge_twice=False)).round_().to(torch.uint8)
