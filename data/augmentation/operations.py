"""The operations of the learned and random policies, on a batch in which every image has its own one.

The set of AutoAugment (Cubuk et al. 2018, arXiv 1805.09501, table 6) in the arithmetic of torchvision.
What changes grey levels alone is a table of 256 entries for each image and channel, what moves pixels
is one sampling grid for each image, and what needs a pixel's other channels or neighbours is a sum of
the image with something else. The three run one after the other over the whole batch, so that nothing
depends on which image was given which operation; two of them leave an image as it is.
"""

from enum import IntEnum
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import DataError


class Kind(IntEnum):
    """The operations, those whose magnitude has a sign together. All of these are the identity at magnitude 0."""

    IDENTITY = 0
    SHEAR_X = 1  # columns a row, about the image's left upper corner
    SHEAR_Y = 2  # rows a column
    TRANSLATE_X = 3  # pixels, to the right; their fraction is dropped
    TRANSLATE_Y = 4  # pixels, down
    ROTATE = 5  # degrees, counter-clockwise
    BRIGHTNESS = 6  # away from black, share of the distance
    COLOR = 7  # away from the grey version
    CONTRAST = 8  # away from the mean grey
    SHARPNESS = 9  # away from the smoothed version
    POSTERIZE = 10  # bits that are kept
    SOLARIZE = 11  # share of 255 from which on levels are inverted
    AUTO_CONTRAST = 12
    EQUALIZE = 13
    INVERT = 14


def apply(images: Tensor, kind: Tensor, magnitude: Tensor, interpolation: str = "nearest") -> Tensor:
    """Each image under its own operation; what comes in from beyond the border is black.

    images: uint8 [B, C, H, W], C is 1 or 3; kind: members of Kind, int64 [B]; magnitude: float32 [B];
    interpolation, of the operations that move pixels: nearest or bilinear -> uint8 [B, C, H, W].
    """
    chosen = kind[:, None] == torch.arange(len(Kind), device=kind.device)
    amount = chosen * magnitude[:, None]  # [B, len(Kind)]: 0 but for the image's own operation
    grey = grey_version(images)
    levels = images.flatten(2).long()
    pixels = grey_levels(images, levels, grey, chosen, amount).gather(2, levels).view(images.shape)
    grid = sampling_grid(amount, *images.shape[2:])
    pixels = F.grid_sample(pixels, grid, mode=interpolation, align_corners=False).round_()
    return away_from(pixels, grey, amount).clamp_(0, 255).to(torch.uint8)


def as_params(kinds: Tensor, magnitudes: Tensor) -> Tensor:
    """Kinds and magnitudes [operations, B] as numbers of each image: float32 [B, operations, 2]."""
    return torch.stack([kinds, magnitudes]).permute(2, 1, 0)


def apply_in_turn(images: Tensor, params: Tensor, interpolation: str = "nearest") -> Tensor:
    """Several operations for each image, one after the other: as `apply`, with `params` as `as_params` has them."""
    for kind, magnitude in params.permute(1, 2, 0):
        images = apply(images, kind.long(), magnitude, interpolation)
    return images


def grey_version(images: Tensor) -> Tensor:
    """Perceived brightness in whole numbers: uint8 [B, C, H, W] -> float32 [B, 1, H, W]."""
    if images.shape[1] not in (1, 3):
        raise DataError(f"the images have {images.shape[1]} channels: operations on colours want 1 or 3")
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def grey_levels(images: Tensor, levels: Tensor, grey: Tensor, chosen: Tensor, amount: Tensor) -> Tensor:
    """What becomes of each grey level in each channel: float32 [B, C, 256], whole numbers between 0 and 255.

    images: uint8 [B, C, H, W]; levels: the same, int64 [B, C, H*W]; grey: [B, 1, H, W]; chosen, amount: [B, len(Kind)].
    """
    level = torch.arange(256.0, device=images.device)
    on = chosen[:, :, None, None].unbind(1)  # each [B, 1, 1]
    much = amount[:, :, None, None].unbind(1)

    # The same for all channels. Inversions: a threshold of 256 is out of reach, 0 inverts all.
    factor = 1 + much[Kind.BRIGHTNESS] + much[Kind.CONTRAST]
    table = torch.addcmul(level * factor, grey.mean((2, 3))[:, :, None], -much[Kind.CONTRAST])
    threshold = torch.where(on[Kind.SOLARIZE], 255 * much[Kind.SOLARIZE], 256.0 * ~on[Kind.INVERT])
    table = torch.where(level >= threshold, 255 - level, table.clamp_(0, 255))
    step = torch.where(on[Kind.POSTERIZE], 8 - much[Kind.POSTERIZE].floor(), 0.0).exp2()
    table = table.div_(step).floor_().mul_(step)

    # Auto-contrast: from the lowest to the highest level.
    lowest, highest = (extreme.float()[:, :, None] for extreme in (images.amin((2, 3)), images.amax((2, 3))))
    stretched = ((level - lowest) / ((highest - lowest) * (1 / 255))).floor_().clamp_(0, 255)
    table = torch.where(on[Kind.AUTO_CONTRAST] & (highest > lowest), stretched, table)

    # Equalize: a level up for so many darker pixels. The lightest ones do not count, and roundings are PIL's.
    count = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=levels.device)
    count.scatter_add_(2, levels, torch.ones_like(count[:, :, :1]).expand_as(levels))
    share = (levels.shape[2] - count.gather(2, highest.long())) // 255
    darker = count.cumsum(2, dtype=torch.int32) - count
    equalized = darker.add_(share // 2).div(share).floor_().clamp_(max=255)
    return torch.where(on[Kind.EQUALIZE] & (share > 0), equalized, table)


def sampling_grid(amount: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the moved images comes from, as F.grid_sample has it: float32 [B, H, W, 2].

    amount: [B, len(Kind)]. Coordinates count from the image's middle; the rows of the inverse matrix are divided by
    half the size before they meet them, as in torchvision: where two pixels are equally near, rounding decides.
    """
    angle, shear_x, shear_y = amount[:, Kind.ROTATE], amount[:, Kind.SHEAR_X], amount[:, Kind.SHEAR_Y]
    sin, cos = angle.deg2rad().sin(), (90 - angle.abs()).deg2rad().sin()  # exactly 0 where they should be
    shift_x = shear_x * (height / 2) - amount[:, Kind.TRANSLATE_X].trunc()
    shift_y = shear_y * (width / 2) - amount[:, Kind.TRANSLATE_Y].trunc()
    row_x = torch.stack([cos, shear_x - sin, shift_x], dim=1) / (width / 2)
    row_y = torch.stack([shear_y + sin, cos, shift_y], dim=1) / (height / 2)
    of_x, of_y, shift = torch.stack([row_x, row_y], dim=1)[:, :, :, None, None].unbind(2)  # each [B, 2, 1, 1]
    x = torch.arange((1 - width) / 2, width / 2, device=amount.device)
    y = torch.arange((1 - height) / 2, height / 2, device=amount.device)[:, None]
    return (x * of_x + y * of_y).add_(shift).permute(0, 2, 3, 1)


def away_from(pixels: Tensor, grey: Tensor, amount: Tensor) -> Tensor:
    """Color and sharpness: away from the grey version or from the smoothed one, the border's pixels excepted.

    pixels: float32 [B, C, H, W], changed; grey: [B, 1, H, W]; amount: [B, len(Kind)] -> `pixels`, beyond 0 to 255.
    """
    width = pixels.shape[3]
    color, sharpness = amount[:, Kind.COLOR, None, None], amount[:, Kind.SHARPNESS, None, None]
    # In flat images a neighbour below is `width` further; sums over the ends of rows are worth nothing, and unused.
    flat = pixels.flatten(2)
    inner = flat[:, :, width + 1 : -width - 1]
    rows = flat[:, :, : -2 * width] + flat[:, :, width:-width] + flat[:, :, 2 * width :]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smoothed = around.add_(inner, alpha=4).mul_(1 / 13).round_()  # a 3x3 mean, in which the middle counts five times
    column = torch.arange(width + 1, width + 1 + inner.shape[2], device=pixels.device) % width
    sharpness = sharpness * ((column > 0) & (column < width - 1))
    difference = inner - smoothed
    if pixels.shape[1] > 1:
        flat.mul_(1 + color).addcmul_(grey.flatten(2), -color)
    inner.addcmul_(difference, sharpness)
    return pixels


@lru_cache
def magnitudes(space: tuple[tuple[Kind, float, float], ...], levels: int) -> Tensor:
    """The magnitude of each operation at each level, from a space of (kind, first, last): float32 [len(Kind), levels].

    Posterize keeps whole bits; an operation that the space does not name, or that has no magnitude, has 0.
    """
    table = torch.zeros(len(Kind), levels)
    for kind, first, last in space:
        table[kind] = torch.linspace(first, last, levels)
    table[Kind.POSTERIZE].round_()
    return table


def with_sign(kind: Tensor, magnitude: Tensor, uniform: Tensor) -> Tensor:
    """Magnitudes [B], half of them negative where the operation has a sign; uniform: float32 [B]."""
    signed = (kind >= Kind.SHEAR_X) & (kind <= Kind.SHARPNESS)
    return torch.where(signed & (uniform < 0.5), -magnitude, magnitude)
