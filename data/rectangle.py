"""Rectangles in batches of images, another one in each, from the intervals of their rows and columns."""

import torch
from torch import Tensor


def interval(first: Tensor, length: Tensor | int, size: int) -> Tensor:
    """Which of `size` pixels are among the `length` from `first` on, which may lie outside: [B] -> bool [B, size]."""
    pixel = torch.arange(size, device=first.device)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])


def rectangle(sides: Tensor, height: int, width: int) -> Tensor:
    """1 for the pixels whose row and whose column are 1 in `sides`: [B, H + W] -> [B, 1, H, W]."""
    rows, columns = sides.split([height, width], dim=1)
    return rows[:, None, :, None] * columns[:, None, None, :]
