"""TrivialAugment: one operation an image, and a magnitude, both drawn evenly.

Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021,
arXiv 2103.10158, algorithm 1 with the wide space of table 1. The same as torchvision.transforms.TrivialAugmentWide().
"""

from dataclasses import dataclass

from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply, magnitudes, with_sign

LEVELS = 31
SPACE = (  # operation, first and last magnitude; identity, auto-contrast and equalize have none
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
    """All operations but invert, each at one of 31 magnitudes, in both directions. There is nothing to choose."""

    place = "policy"
    draws = 3

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        return apply(images, *self.drawn(uniform))

    def drawn(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """What uniform numbers [B, 3] make of each image: kinds int64 [B], magnitudes float32 [B]."""
        kind = (uniform[:, 0] * Kind.INVERT).long()
        table = magnitudes(SPACE, LEVELS).to(uniform.device, non_blocking=True)
        magnitude = table[kind, (uniform[:, 1] * LEVELS).long()]
        return kind, with_sign(kind, magnitude, uniform[:, 2])
