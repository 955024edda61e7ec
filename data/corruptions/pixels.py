"""What several corruptions do with pixels: to numbers and back, smoothing, looking between them."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-3  # of 255: what errors of float32 may take from a whole number


def as_numbers(images: Tensor) -> Tensor:
    """uint8 to float32 between 0 and 1."""
    return images.float() / 255


def as_bytes(numbers: Tensor) -> Tensor:
    """Numbers between 0 and 1, clipped to that, to uint8; what is behind the point falls away, as in the authors'."""
    return (255 * numbers + ROUNDING).clamp_(0, 255).to(torch.uint8)


def along_both(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """A linear filter whose matrices [H, H] and [W, W] act on rows and on columns; float32 [N, C, H, W]."""
    across = images @ torch.from_numpy(columns).float().T
    # Transposed, so that it is one large product: many small ones take twice the time.
    return (across.transpose(2, 3) @ torch.from_numpy(rows).float().T).transpose(2, 3)


def gaussian(images: Tensor, sigma: float, *, mode: str, truncate: float) -> Tensor:
    """Images smoothed with a gaussian as scipy.ndimage does it, whose `mode` says what lies beyond the border."""
    height, width = (
        gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate) for size in images.shape[2:]
    )
    return along_both(images, height, width)


def looked_up(images: Tensor, x: Tensor, y: Tensor, *, edge_twice: bool) -> Tensor:
    """Images float32 [N, C, H, W] at the places `x` and `y`, [N, H, W] in pixels, linearly between four of them.

    Beyond its border an image is mirrored there: at the middle of the outermost pixels, or at their outer edge, so
    that they are seen twice.
    """
    height, width = images.shape[2:]
    if edge_twice:
        places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    else:
        places = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], 3)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=not edge_twice)
