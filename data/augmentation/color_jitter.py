"""Colour jitter: random changes of brightness, contrast, saturation and hue.

Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", 2013, arXiv
1312.5402, sec. 2. Factors and arithmetic are those of torchvision.transforms.ColorJitter, but the order is
fixed, as in the title; torchvision draws a random order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import grey_version


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Operation):
    """Factors are drawn from [max(0, 1 - amount), 1 + amount]; `hue` is the maximum rotation, in turns."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    phase = "colour"
    draws = 4

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        amounts = zip((self.brightness, self.contrast, self.saturation), uniform[:, :3].unbind(1), strict=True)
        brightness, contrast, saturation = (
            (max(0.0, 1 - amount) + number * (1 + amount - max(0.0, 1 - amount)))[:, None, None, None]
            for amount, number in amounts
        )
        hue = ((2 * uniform[:, 3] - 1) * self.hue)[:, None, None, None]
        images = blend(images, torch.zeros_like(brightness), brightness)
        images = blend(images, grey_version(images).mean((1, 2, 3), keepdim=True), contrast)
        if images.shape[1] == 1:  # grey images have neither saturation nor hue
            return images
        images = blend(images, grey_version(images), saturation)
        return turn_hue(images, hue) if self.hue else images


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """`factor` * images + (1 - factor) * other, clamped: uint8 [B, C, H, W] -> the same."""
    return (images * factor).addcmul_(other, 1 - factor).clamp_(0, 255).to(torch.uint8)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue; value and saturation do not change.

    images: uint8 [B, 3, H, W]; turns: float32 [B, 1, 1, 1], between -0.5 and 0.5 -> uint8 [B, 3, H, W].
    """
    red, green, blue = images.float().split(1, dim=1)
    value, lowest = images.amax(1, keepdim=True).float(), images.amin(1, keepdim=True).float()
    chroma = value - lowest
    # The hue in sixths of a turn, as in the conversion from RGB to HSV.
    divisor = chroma.clamp(min=1)
    sector = torch.where(
        red == value,
        (green - blue) / divisor,
        torch.where(green == value, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sector = sector + 6 * turns
    # Conversion from HSV to RGB; the offsets 5, 3, 1 are those of red, green and blue.
    begin = torch.arange(5, 0, -2, device=images.device)[:, None, None]
    away = (sector + begin) % 6
    pixels = value - chroma * torch.minimum(away, 4 - away).clamp_(0, 1)
    return (pixels * (255.999 / 255)).to(torch.uint8)
