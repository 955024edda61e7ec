"""PCA colour augmentation: shift colours along the principal components of the training images' colours.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NeurIPS 2012, sec. 4.1: add to every pixel of an image the eigenvectors of the colour covariance, each
multiplied by its eigenvalue and a normal random number.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.augmentation import Operation

CHUNK = 1000  # images whose pixels are processed at once


@dataclass(frozen=True, kw_only=True)
class PCAColor(Operation):
    """A normally distributed shift with standard deviation `strength`, in units of each eigenvalue.

    The covariance is of colours from 0 to 1, so that the paper's 0.1 is a shift of a few per cent. The
    rows of `axes` are eigenvectors times their eigenvalues, in grey levels; `prepared` sets them.
    """

    strength: float
    axes: Tensor | None = None
    phase = "colour"
    draws = 3

    def prepared(self, images: Tensor) -> "PCAColor":
        eigenvalues, eigenvectors = torch.linalg.eigh(color_covariance(images))
        return replace(self, axes=(255 * eigenvalues * eigenvectors).T.float())

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """The shift of each channel: [B, C]."""
        axes = self.axes.to(uniform.device)
        # erfinv is infinite at -1; the upper end is below 1 already.
        symmetric = (2 * uniform[:, : len(axes)] - 1).clamp(min=2**-23 - 1)
        normal = torch.erfinv(symmetric) * (self.strength * math.sqrt(2))
        return normal @ axes

    def transform(self, images: Tensor, shift: Tensor) -> Tensor:
        return (images + shift[:, :, None, None]).round_().clamp_(0, 255).to(torch.uint8)


def color_covariance(images: Tensor) -> Tensor:
    """The covariance of colours, from 0 to 1, over all pixels: uint8 [N, C, H, W] -> float64 [C, C]."""
    channels = images.shape[1]
    total, products = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    for chunk in images.split(CHUNK):
        pixels = chunk.transpose(0, 1).flatten(1).double() / 255
        total += pixels.sum(1)
        products += pixels @ pixels.T
    count = images.numel() // channels
    mean = total / count
    return products / count - mean.outer(mean)
