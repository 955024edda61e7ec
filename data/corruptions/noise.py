"""Noise: of a sensor that gets too little light, of counted photons, of broken pixels."""

import torch
from torch import Tensor

from data.corruptions.pixels import as_bytes, as_numbers


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The sum x + n with n normal of standard deviation 0.04 to 0.10, another in each channel of each pixel."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return as_bytes(as_numbers(images) + deviation * torch.randn(images.shape, generator=generator))


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Poisson(c x) / c, the share of photons that were counted of c = 500 down to 50 that white sends."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return as_bytes(torch.poisson(photons * as_numbers(images), generator) / photons)


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a share of 0.01 to 0.07 of the values, of each channel by itself, is half each 0 and 255."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    chance = torch.rand(images.shape, generator=generator)
    return images.masked_fill(chance < share / 2, 0).masked_fill(chance >= 1 - share / 2, 255)
