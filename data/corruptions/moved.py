"""Images moved and turned by a little; what comes in at the border is their mirror image."""

import math

import torch
from torch import Tensor

from data.corruptions.pixels import as_numbers, looked_up


def translated(images: Tensor, pixels: int) -> Tensor:
    """uint8 [N, C, H, W] moved so many pixels to the right, fewer than W; negative: to the left."""
    last = images.shape[3] - 1
    source = (torch.arange(last + 1) - pixels).abs()
    return images[..., last - (last - source).abs()]


def rotated(images: Tensor, degrees: float) -> Tensor:
    """uint8 [N, C, H, W] turned about the middle, counter-clockwise, by linear interpolation and rounded."""
    count, _, height, width = images.shape
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    y, x = down - (height - 1) / 2, across - (width - 1) / 2
    source_x, source_y = cosine * x - sine * y + (width - 1) / 2, sine * x + cosine * y + (height - 1) / 2
    places = (place.expand(count, height, width) for place in (source_x, source_y))
    return (255 * looked_up(as_numbers(images), *places, edge_twice=False)).round_().to(torch.uint8)
