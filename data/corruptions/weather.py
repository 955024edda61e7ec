"""Weather: snow, frost, fog, and bright light."""

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.corruptions.blur import streaked, zoomed
from data.corruptions.pixels import as_bytes, as_numbers

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
SHEETS = 5  # of ice
ICE = (0.86, 0.94, 1.0)  # its colour
FINER, NEEDLE = 4, 3  # supersampling of ice crystals, and their width in sub-pixels


def snow(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Flakes: normal noise, enlarged, thresholded, motion-blurred; added both unrotated and rotated by 180 degrees.

    The image itself becomes paler, m x + (1 - m) max(x, 1.5 grey(x) + 0.5). The motion is within 45 degrees of the
    vertical; `streaked` replaces ImageMagick.
    """
    mean, deviation, factor, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    count, _, height, width = images.shape
    flakes = zoomed(mean + deviation * torch.randn(count, 1, height, width, generator=generator), factor)
    flakes = as_numbers(as_bytes(flakes.masked_fill(flakes < threshold, 0)))
    degrees = 90 * torch.rand(count, generator=generator) - 135
    flakes = streaked(flakes, radius=radius, sigma=sigma, degrees=degrees)
    numbers = as_numbers(images)
    paler = kept * numbers + (1 - kept) * torch.maximum(numbers, 1.5 * grey(numbers) + 0.5)
    return as_bytes(paler + flakes + flakes.flip(2, 3))


def frost(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The sum a x + b f, where f is a random crop of an image of ice.

    The authors use five photographs of frosted windows; `ice` generates five images in their place. The weights a
    and b are theirs, but results are not comparable with those on the published files.
    """
    kept, added = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    count, channels, height, width = images.shape
    sheets = torch.stack([ice(4 * power_of_two(max(height, width)), number) for number in range(SHEETS)])
    sheet = torch.randint(SHEETS, (count, 1, 1), generator=generator)
    top = torch.randint(sheets.shape[1] - height, (count, 1, 1), generator=generator)
    left = torch.randint(sheets.shape[2] - width, (count, 1, 1), generator=generator)
    pieces = sheets[sheet, top + torch.arange(height)[:, None], left + torch.arange(width)]
    colour = torch.tensor(ICE if channels == 3 else [sum(ICE) / 3] * channels)
    return as_bytes(kept * as_numbers(images) + added * pieces[:, None] * colour.view(1, -1, 1, 1))


def fog(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """(x + c p) m / (m + c), with clouds p between 0 and 1 (`plasma`) and the image's maximum m."""
    thickness, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    count, _, height, width = images.shape
    clouds = plasma(count, power_of_two(max(height, width)), decay, generator)[:, None, :height, :width]
    numbers = as_numbers(images)
    largest = numbers.amax((1, 2, 3), keepdim=True)
    return as_bytes((numbers + thickness * clouds) * largest / (largest + thickness))


def brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add 0.05 to 0.3 to V in HSV, up to 1.

    V is the maximum of the channels. With constant hue and saturation all channels are proportional to it; black
    becomes grey.
    """
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    numbers = as_numbers(images)
    value = numbers.amax(1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return as_bytes(torch.where(value > 0, numbers * (brighter / value), brighter))


def grey(numbers: Tensor) -> Tensor:
    """float32 [N, C, H, W] to greyscale [N, 1, H, W]."""
    if numbers.shape[1] == 1:
        return numbers
    return (numbers * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def plasma(count: int, side: int, decay: float, generator: torch.Generator) -> Tensor:
    """Clouds float32 [N, side, side] from 0 to 1 by the diamond-square algorithm on a torus; `side` a power of two.

    Fournier, Fussell and Carpenter 1982, "Computer rendering of stochastic models". Starting from a
    grid of one point, the centre of each square is the mean of its corners, and the centre of each edge the mean of
    its ends and the adjacent centres, each plus a random number between -w^2 and w^2. w starts at 100 and is divided
    by `decay` with each halving of the grid.
    """
    heights = torch.zeros(count, side, side)
    step, wobble = side, 100.0

    def settled(four: Tensor) -> Tensor:
        return four / 4 + wobble**2 * (2 * torch.rand(four.shape, generator=generator) - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        below, right = corners.roll(-1, 1), corners.roll(-1, 2)
        middles = settled(corners + below + right + below.roll(-1, 2))
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = settled(corners + right + middles + middles.roll(1, 1))
        heights[:, half::step, ::step] = settled(corners + below + middles + middles.roll(1, 2))
        step, wobble = half, wobble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


@lru_cache(maxsize=2 * SHEETS)
def ice(side: int, number: int) -> Tensor:
    """An image of ice, float32 [side, side] from 0 to 1: pale clouds crossed by bright needles.

    The needles are roughly along the three axes of hexagonal ice, 60 degrees apart, with random length and brightness,
    most of them faint. The image is determined by `side` and `number`.
    """
    generator = torch.Generator().manual_seed(number)
    canvas = Image.new("L", (FINER * side, FINER * side))
    pen = ImageDraw.Draw(canvas)
    needles = torch.rand(side * side // 12, 6, generator=generator).tolist()
    for bright, x, y, axis, askew, length in sorted(needles):  # the brightest on top
        angle = math.pi / 3 * (int(3 * axis) + 0.3 * (askew - 0.5))
        reach = 3 + 15 * length
        ends = (side * x, side * y, side * x + reach * math.cos(angle), side * y + reach * math.sin(angle))
        pen.line([FINER * end for end in ends], fill=round(255 * bright**2), width=NEEDLE)
    drawn = torch.from_numpy(np.array(canvas.resize((side, side), Image.Resampling.BOX)))
    return torch.maximum(0.2 + 0.4 * plasma(1, side, 2, generator)[0], drawn / 255)
