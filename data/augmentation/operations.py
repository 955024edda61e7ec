"""The operations of the learned and random policies, with a different operation for each image of a batch.

The set of AutoAugment (Cubuk et al. 2018, arXiv 1805.09501, table 6) in the arithmetic of torchvision.
Operations on grey levels are a lookup table of 256 entries per image and channel, geometric operations a
sampling grid per image, and those that need other channels or neighbours a blend with another image.
All three run on the whole batch, whatever operation each image has; two of them are then the identity.
"""

from enum import IntEnum
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import DataError


class Kind(IntEnum):
    """The operations; those from SHEAR_X to SHARPNESS have a signed magnitude and are the identity at 0."""

    IDENTITY = 0
    SHEAR_X = 1  # columns per row, about the upper left corner
    SHEAR_Y = 2  # rows per column
    TRANSLATE_X = 3  # pixels, to the right; truncated
    TRANSLATE_Y = 4  # pixels, down
    ROTATE = 5  # degrees, counter-clockwise
    BRIGHTNESS = 6  # factor - 1 of a blend with black
    COLOR = 7  # of a blend with the grey version
    CONTRAST = 8  # of a blend with the mean grey
    SHARPNESS = 9  # of a blend with the smoothed version
    POSTERIZE = 10  # bits that are kept
    SOLARIZE = 11  # levels from this fraction of 255 on are inverted
    AUTO_CONTRAST = 12
    EQUALIZE = 13
    INVERT = 14


def apply(images: Tensor, kind: Tensor, magnitude: Tensor, interpolation: str = "nearest") -> Tensor:
    """Apply to each image its own operation; pixels from outside the image are black.

    images: uint8 [B, C, H, W], C is 1 or 3; kind: members of Kind, int64 [B]; magnitude: float32 [B];
    interpolation of geometric operations: nearest or bilinear -> uint8 [B, C, H, W].
    """
    chosen = kind[:, None] == torch.arange(len(Kind), device=kind.device)
    amount = chosen * magnitude[:, None]  # [B, len(Kind)]: 0 except for the image's own operation
    grey = grey_version(images)
    levels = images.flatten(2).long()
    pixels = grey_levels(images, levels, grey, chosen, amount).gather(2, levels).view(images.shape)
    grid = sampling_grid(amount, *images.shape[2:])
    pixels = F.grid_sample(pixels, grid, mode=interpolation, align_corners=False).round_()
    return away_from(pixels, grey, amount).clamp_(0, 255).to(torch.uint8)


def as_params(kinds: Tensor, magnitudes: Tensor) -> Tensor:
    """Kinds and magnitudes [operations, B] as one tensor: float32 [B, operations, 2]."""
    return torch.stack([kinds, magnitudes]).permute(2, 1, 0)


def apply_in_turn(images: Tensor, params: Tensor, interpolation: str = "nearest") -> Tensor:
    """Apply several operations to each image in sequence, as `apply`; params: from `as_params`."""
    for kind, magnitude in params.permute(1, 2, 0):
        images = apply(images, kind.long(), magnitude, interpolation)
    return images


def grey_version(images: Tensor) -> Tensor:
    """Luminance, rounded down: uint8 [B, C, H, W] -> float32 [B, 1, H, W]."""
    if images.shape[1] not in (1, 3):
        raise DataError(f"the images have {images.shape[1]} channels: colour operations need 1 or 3")
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def grey_levels(images: Tensor, levels: Tensor, grey: Tensor, chosen: Tensor, amount: Tensor) -> Tensor:
    """The lookup table of grey levels for each channel: float32 [B, C, 256], whole numbers between 0 and 255.

    images: uint8 [B, C, H, W]; levels: the same, int64 [B, C, H*W]; grey: [B, 1, H, W]; chosen, amount: [B, len(Kind)].
    """
    level = torch.arange(256.0, device=images.device)
    on = chosen[:, :, None, None].unbind(1)  # each [B, 1, 1]
    much = amount[:, :, None, None].unbind(1)

    # The same for all channels. Inversion: a threshold of 256 inverts nothing, 0 inverts all levels.
    factor = 1 + much[Kind.BRIGHTNESS] + much[Kind.CONTRAST]
    table = torch.addcmul(level * factor, grey.mean((2, 3))[:, :, None], -much[Kind.CONTRAST])
    threshold = torch.where(on[Kind.SOLARIZE], 255 * much[Kind.SOLARIZE], 256.0 * ~on[Kind.INVERT])
    table = torch.where(level >= threshold, 255 - level, table.clamp_(0, 255))
    step = torch.where(on[Kind.POSTERIZE], 8 - much[Kind.POSTERIZE].floor(), 0.0).exp2()
    table = table.div_(step).floor_().mul_(step)

    # Auto-contrast: stretch from the lowest to the highest level.
    lowest, highest = (extreme.float()[:, :, None] for extreme in (images.amin((2, 3)), images.amax((2, 3))))
    stretched = ((level - lowest) / ((highest - lowest) * (1 / 255))).floor_().clamp_(0, 255)
    table = torch.where(on[Kind.AUTO_CONTRAST] & (highest > lowest), stretched, table)

    # Equalize: from the cumulative histogram without its highest level, with PIL's rounding.
    count = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=levels.device)
    count.scatter_add_(2, levels, torch.ones_like(count[:, :, :1]).expand_as(levels))
    share = (levels.shape[2] - count.gather(2, highest.long())) // 255
    darker = count.cumsum(2, dtype=torch.int32) - count
    equalized = darker.add_(share // 2).div(share).floor_().clamp_(max=255)
    return torch.where(on[Kind.EQUALIZE] & (share > 0), equalized, table)


def sampling_grid(amount: Tensor, height: int, width: int) -> Tensor:
    """The sampling grid of geometric operations, for F.grid_sample: float32 [B, H, W, 2].

    amount: [B, len(Kind)]. Coordinates are relative to the centre. The inverse matrix is divided by half the size
    before the product, as in torchvision: rounding decides between two pixels that are equally near.
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
    """Color and sharpness: blends with the grey or the smoothed image; sharpness leaves border pixels unchanged.

    pixels: float32 [B, C, H, W], modified; grey: [B, 1, H, W]; amount: [B, len(Kind)] -> `pixels`, not clamped.
    """
    width = pixels.shape[3]
    color, sharpness = amount[:, Kind.COLOR, None, None], amount[:, Kind.SHARPNESS, None, None]
    # In flattened images the neighbour below is at offset `width`; sums across the ends of rows are not used.
    flat = pixels.flatten(2)
    inner = flat[:, :, width + 1 : -width - 1]
    rows = flat[:, :, : -2 * width] + flat[:, :, width:-width] + flat[:, :, 2 * width :]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smoothed = around.add_(inner, alpha=4).mul_(1 / 13).round_()  # a 3x3 mean with weight 5 for the centre
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

    Magnitudes of posterize are rounded to whole bits; operations without a magnitude have 0.
    """
    table = torch.zeros(len(Kind), levels)
    for kind, first, last in space:
        table[kind] = torch.linspace(first, last, levels)
    table[Kind.POSTERIZE].round_()
    return table


def with_sign(kind: Tensor, magnitude: Tensor, uniform: Tensor) -> Tensor:
    """Magnitudes [B] with a random sign for operations that have one; uniform: float32 [B]."""
    signed = (kind >= Kind.SHEAR_X) & (kind <= Kind.SHARPNESS)
    return torch.where(signed & (uniform < 0.5), -magnitude, magnitude)
