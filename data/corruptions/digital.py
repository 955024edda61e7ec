"""Digital corruptions: contrast, elastic deformation, pixelation, JPEG."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.corruptions.pixels import as_bytes, as_numbers, gaussian, looked_up


def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Reduced contrast, m + c (x - m), with c from 0.75 down to 0.15 and the mean m of each channel of the image."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    numbers = as_numbers(images)
    mean = numbers.mean((2, 3), keepdim=True)
    return as_bytes(mean + kept * (numbers - mean))


def elastic_transform(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """An affine map, then a smooth displacement field; linear interpolation, reflection padding.

    The affine map moves three points by up to 0.03 to 0.08 of the image's side. The displacements are uniform noise
    between -1 and 1, smoothed by a gaussian and scaled. Constants are relative to the side. Severity 1 has no
    displacements, and some constants decrease with severity: the effect is less monotonic than in other corruptions.
    """
    amplitude, sigma, moved = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    count, _, height, width = images.shape
    side = min(height, width)
    x, y, third = width // 2, height // 2, side // 3
    points = torch.tensor([[x + third, y + third], [x + third, y - third], [x - third, y - third]]).float()
    taken_to = points + side * moved * (2 * torch.rand(count, 3, 2, generator=generator) - 1)
    # Each pixel is looked up at its position under the inverse map.
    inverse = torch.linalg.solve(torch.cat([taken_to, torch.ones(count, 3, 1)], 2), points.expand(count, 3, 2))
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    places = torch.stack([across, down, torch.ones_like(down)], 2).view(1, -1, 3) @ inverse
    mapped = looked_up(as_numbers(images), *places.view(count, height, width, 2).unbind(3), edge_twice=False)
    if amplitude:
        noise = 2 * torch.rand(count, 2, height, width, generator=generator) - 1
        right, below = (side * amplitude * gaussian(noise, side * sigma, mode="reflect", truncate=3)).unbind(1)
        mapped = looked_up(mapped, across + right, down + below, edge_twice=True)
    return as_bytes(mapped)


def pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Resized to 0.95 down to 0.65 of the side and back, with box filtering."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]

    def pixelated(image: Image.Image) -> Image.Image:
        smaller = image.resize([int(size * share) for size in image.size], Image.Resampling.BOX)
        return smaller.resize(image.size, Image.Resampling.BOX)

    return each(images, pixelated)


def jpeg_compression(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """JPEG compression with quality 80 down to 40."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return each(images, compressed)


def each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a function of a Pillow image to each image."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    pixels = pixels.squeeze(3) if images.shape[1] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(changed.reshape(len(images), *images.shape[2:], -1)).permute(0, 3, 1, 2).contiguous()
