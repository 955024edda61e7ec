"""Rectangles in batches of images, another one in each, from the intervals of their rows and columns."""

import torch
from torch import Tensor


def interval(first: Tensor, length: Tensor | int, size: int) -> Tensor:
    """Which of `size` pixels are among the `length` from `first` on, which may lie outside: [B] -> bool [B, size]."""
    pixel = torch.arange(size, device=first.device)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])
