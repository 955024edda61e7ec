"""TrivialAugment: one operation per image and its magnitude, both drawn uniformly.

Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021,
arXiv 2103.10158, algorithm 1 with the wide space of table 1. The same as torchvision.transforms.TrivialAugmentWide().
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply_in_turn, as_params, magnitudes, with_sign

LEVELS = 31
SPACE = (  # (operation, first magnitude, last magnitude); identity, auto-contrast and equalize have none
    (Kind.SHEAR_X, 0.0, 0.99),
    (Kind.SHEAR_Y, 0.0, 0.99),
    (Kind.TRANSLATE_X, 0.0, 32.0),
    (Kind.TRANSLATE_Y, 0.0, 32.0),
    (Kind.ROTATE, 0.0, 135.0),
    (Kind.BRIGHTNESS, 0.0, 0.99),
    (Kind.COLOR, 0.0, 0.99),
    (Kind.CONTRAST, 0.0, 0.99),
    (Kind.SHARPNESS, 0.0, 0.99),
    (Kind.POSTERIZE, 8.0, 2.0),
    (Kind.SOLARIZE, 1.0, 0.0),
)


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(Operation):
    """One of all operations but invert, with one of 31 magnitudes and a random sign. There are no settings."""

    phase = "policy"
    draws = 3

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        return as_params(*self.drawn(uniform))

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return apply_in_turn(images, params)

    def drawn(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Operations from random numbers [B, 3]: kinds int64 [1, B], magnitudes float32 [1, B]."""
        which, level, direction = uniform.T.split(1)
        kind = (which * Kind.INVERT).long()
        magnitude = magnitudes(SPACE, LEVELS).to(uniform.device)[kind, (level * LEVELS).long()]
        return kind, with_sign(kind, magnitude, direction)
