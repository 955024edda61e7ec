"""RandAugment: a few random operations per image in sequence, all of the same magnitude.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical Automated Data Augmentation with a Reduced Search
Space", NeurIPS 2020, arXiv 1909.13719, sec. 3. The same as torchvision.transforms.RandAugment, with
magnitudes from 0 to 30.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply_in_turn, as_params, magnitudes, with_sign

LEVELS = 31


def space(height: int, width: int) -> tuple[tuple[Kind, float, float], ...]:
    """(operation, first magnitude, last magnitude); identity, auto-contrast, equalize and invert have none."""
    return (
        (Kind.SHEAR_X, 0.0, 0.3),
        (Kind.SHEAR_Y, 0.0, 0.3),
        (Kind.TRANSLATE_X, 0.0, 150 / 331 * width),
        (Kind.TRANSLATE_Y, 0.0, 150 / 331 * height),
        (Kind.ROTATE, 0.0, 30.0),
        (Kind.BRIGHTNESS, 0.0, 0.9),
        (Kind.COLOR, 0.0, 0.9),
        (Kind.CONTRAST, 0.0, 0.9),
        (Kind.SHARPNESS, 0.0, 0.9),
        (Kind.POSTERIZE, 8.0, 4.0),
        (Kind.SOLARIZE, 1.0, 0.0),
    )


@dataclass(frozen=True, kw_only=True)
class RandAugment(Operation):
    """`operations` random operations, all but invert, each with `magnitude` (0 to 30) and a random sign."""

    operations: int
    magnitude: int
    phase = "policy"

    @property
    def draws(self) -> int:
        return 2 * self.operations

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        return as_params(*self.drawn(uniform, *shape[1:]))

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return apply_in_turn(images, params)

    def drawn(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Operations from random numbers [B, draws]: kinds int64 and magnitudes float32, both [operations, B]."""
        which, direction = uniform.T.split(self.operations)
        kind = (which * Kind.INVERT).long()
        table = magnitudes(space(height, width), LEVELS)[:, self.magnitude].to(uniform.device)
        return kind, with_sign(kind, table[kind], direction)
