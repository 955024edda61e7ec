"""Noise: Gaussian, shot and impulse noise."""

import torch
from torch import Tensor

from data.corruptions.pixels import as_bytes, as_numbers


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise with a standard deviation of 0.04 to 0.10 to each channel of each pixel."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return as_bytes(as_numbers(images) + deviation * torch.randn(images.shape, generator=generator))


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Poisson(c x) / c with c = 500 down to 50, the expected number of photons of white."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return as_bytes(torch.poisson(photons * as_numbers(images), generator) / photons)


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a fraction of 0.01 to 0.07 of all values becomes 0 or 255, half each."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    chance = torch.rand(images.shape, generator=generator)
    return images.masked_fill(chance < share / 2, 0).masked_fill(chance >= 1 - share / 2, 255)
