"""Shared by several corruptions: conversion to float and back, smoothing, interpolation."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-3  # of 255: tolerance for float32 rounding errors below a whole number


def as_numbers(images: Tensor) -> Tensor:
    """uint8 to float32 between 0 and 1."""
    return images.float() / 255


def as_bytes(numbers: Tensor) -> Tensor:
    """float32, clipped to [0, 1], to uint8; truncates, as in the authors' code."""
    return (255 * numbers + ROUNDING).clamp_(0, 255).to(torch.uint8)


def along_both(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Apply a separable linear filter, given as matrices [H, H] and [W, W], to images float32 [N, C, H, W]."""
    across = images @ torch.from_numpy(columns).float().T
    # Transposed, so that it is one large matrix product: many small ones take twice the time.
    return (across.transpose(2, 3) @ torch.from_numpy(rows).float().T).transpose(2, 3)


def gaussian(images: Tensor, sigma: float, *, mode: str, truncate: float) -> Tensor:
    """Gaussian smoothing as in scipy.ndimage, whose `mode` is the padding."""
    height, width = (
        gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate) for size in images.shape[2:]
    )
    return along_both(images, height, width)


def looked_up(images: Tensor, x: Tensor, y: Tensor, *, edge_twice: bool) -> Tensor:
    """Images float32 [N, C, H, W] at the positions `x`, `y` [N, H, W] in pixels, with bilinear interpolation.

    Reflection padding is at the centre of the border pixels or, with `edge_twice`, at their outer edge, which repeats
    them.
    """
    height, width = images.shape[2:]
    if edge_twice:
        places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    else:
        places = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], 3)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=not edge_twice)
