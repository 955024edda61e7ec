"""RandAugment: a few operations an image, one after the other, all of the same magnitude.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical Automated Data Augmentation with a Reduced Search
Space", NeurIPS 2020, arXiv 1909.13719, sec. 3. The same as torchvision.transforms.RandAugment, also in
its scale, on which 30 is the largest magnitude.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply_in_turn, as_params, magnitudes, with_sign

LEVELS = 31


def space(height: int, width: int) -> tuple[tuple[Kind, float, float], ...]:
    """Operation, first and last magnitude; identity, auto-contrast, equalize and invert have none."""
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
    """`operations` draws out of all operations but invert, each at `magnitude` (0 to 30) in a random direction."""

    operations: int
    magnitude: int
    place = "policy"

    @property
    def draws(self) -> int:
        return 2 * self.operations

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        return as_params(*self.drawn(uniform, *shape[1:]))

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return apply_in_turn(images, params)

    def drawn(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What numbers [B, draws] make of images: kinds int64 [operations, B], magnitudes float32 [operations, B]."""
        which, direction = uniform.T.split(self.operations)
        kind = (which * Kind.INVERT).long()
        table = magnitudes(space(height, width), LEVELS)[:, self.magnitude].to(uniform.device)
        return kind, with_sign(kind, table[kind], direction)
