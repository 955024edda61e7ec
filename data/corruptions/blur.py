"""Blur: defocus, frosted glass, motion and zoom."""

import math

import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional as F

from data.corruptions.pixels import along_both, as_bytes, as_numbers, gaussian

FAINT = 1e-5  # weight below which steps of a motion blur are skipped


def defocus_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean over a disk with a radius of 0.3 to 1.5 pixels, smoothed by a 3x3 gaussian; reflection padding.

    A disk contains the pixels whose centre is in it: up to severity 3 that is one pixel, and only the gaussian blurs.
    """
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    steps = torch.arange(-2, 3)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    soft = torch.exp(-(torch.arange(-1.0, 2) ** 2) / (2 * softness**2))
    soft = soft[:, None] * soft
    kernel = F.conv2d(disk[None, None] / disk.sum(), soft[None, None] / soft.sum(), padding=1)
    count, channels, height, width = images.shape
    padded = F.pad(as_numbers(images).view(-1, 1, height, width), (2, 2, 2, 2), mode="reflect")
    return as_bytes(F.conv2d(padded, kernel)).view(count, channels, height, width)


def glass_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A gaussian of 0.05 to 0.4 pixels, pixels displaced once or twice, and the gaussian again.

    Each pixel from the third row and column on is replaced by itself or its left, upper, or upper left neighbour. The
    authors' script is written to swap two pixels; but rows of a NumPy array are views, so that the first assignment
    overwrites what the second reads, and the published files contain copies.
    """
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    count, channels, height, width = images.shape
    blurred = as_bytes(gaussian(as_numbers(images), sigma, mode="nearest", truncate=4))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    displaced = (rows >= 2) & (columns >= 2)
    for _ in range(times):
        up, left = torch.randint(2, (2, count, height, width), generator=generator) * displaced
        source = ((rows - up) * width + columns - left).view(count, 1, -1).expand(-1, channels, -1)
        blurred = blurred.flatten(2).gather(2, source).view(images.shape)
    return as_bytes(gaussian(as_numbers(blurred), sigma, mode="nearest", truncate=4))


def motion_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A motion of up to 12 to 18 pixels in a direction within 45 degrees of the horizontal.

    The authors use ImageMagick; here `streaked` replaces it.
    """
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    degrees = 90 * torch.rand(len(images), generator=generator) - 45
    return as_bytes(streaked(as_numbers(images), radius=radius, sigma=sigma, degrees=degrees))


def zoom_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean of the image and its enlargements by 1.00, 1.01, ... up to 1.06 at severity 1, 1.25 at severity 5."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)  # as in the authors' script
    numbers = as_numbers(images)
    total = numbers.clone()
    for factor in factors:
        total += zoomed(numbers, factor)
    return as_bytes(total / (len(factors) + 1))


def streaked(numbers: Tensor, *, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur float32 [N, C, H, W] along a line from each pixel, with a direction per image.

    Step i from 0 to 2 `radius` takes the nearest pixel at distance i in that direction, with the weight of a gaussian
    of `sigma` at i; border pixels are replicated. The same as in the package imagecorruptions (Michaelis et al. 2019,
    arXiv 1907.07484), which computes ImageNet-C without ImageMagick.
    """
    count, channels, height, width = numbers.shape
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    flat, total = numbers.flatten(2), torch.zeros_like(numbers).flatten(2)
    for step in range(int((weights > FAINT).sum())):
        down, right = (
            torch.ceil(step * direction(degrees * math.pi / 180) - 0.5).long() for direction in (torch.sin, torch.cos)
        )
        rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)
        places = (rows[:, :, None] * width + columns[:, None]).view(count, 1, -1).expand(-1, channels, -1)
        total += weights[step] * flat.gather(2, places)
    return total.view(numbers.shape)


def zoomed(numbers: Tensor, factor: float) -> Tensor:
    """The centre of images float32 [N, C, H, W], enlarged by linear interpolation to the full size."""
    return along_both(numbers, *(zooming(size, factor) for size in numbers.shape[2:]))


def zooming(size: int, factor: float) -> np.ndarray:
    """The matrix [size, size] of `zoomed` along an axis: scipy.ndimage.zoom of the centre, trimmed to `size`."""
    middle = math.ceil(size / factor)
    first = (size - middle) // 2
    larger = zoom(np.eye(size)[first : first + middle], (factor, 1), order=1)
    trimmed = (len(larger) - size) // 2
    return larger[trimmed : trimmed + size]
