"""Masks of a different rectangle in each image of a batch, from intervals of rows and columns."""

import torch
from torch import Tensor


def interval(first: Tensor, length: Tensor | int, size: int) -> Tensor:
    """Which of `size` pixels are in [first, first + length), which may extend outside: [B] -> bool [B, size]."""
    pixel = torch.arange(size, device=first.device)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])


def rectangle(sides: Tensor, height: int, width: int) -> Tensor:
    """The product of row and column masks: `sides` [B, H + W] -> [B, 1, H, W]."""
    rows, columns = sides.split([height, width], dim=1)
    return rows[:, None, :, None] * columns[:, None, None, :]
