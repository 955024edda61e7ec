"""AutoAugment: pairs of operations that a search found for CIFAR-10.

Cubuk, Zoph, Mane, Vasudevan and Le, "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019,
arXiv 1805.09501, table 7. The same as torchvision.transforms.AutoAugment(AutoAugmentPolicy.CIFAR10).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply_in_turn, as_params, magnitudes, with_sign
from data.augmentation.rand_augment import space

LEVELS = 10
# The policy: 25 pairs of (operation, probability, level); operations without a magnitude have level 0.
PAIRS = (
    (("INVERT", 0.1, 0), ("CONTRAST", 0.2, 6)),
    (("ROTATE", 0.7, 2), ("TRANSLATE_X", 0.3, 9)),
    (("SHARPNESS", 0.8, 1), ("SHARPNESS", 0.9, 3)),
    (("SHEAR_Y", 0.5, 8), ("TRANSLATE_Y", 0.7, 9)),
    (("AUTO_CONTRAST", 0.5, 0), ("EQUALIZE", 0.9, 0)),
    (("SHEAR_Y", 0.2, 7), ("POSTERIZE", 0.3, 7)),
    (("COLOR", 0.4, 3), ("BRIGHTNESS", 0.6, 7)),
    (("SHARPNESS", 0.3, 9), ("BRIGHTNESS", 0.7, 9)),
    (("EQUALIZE", 0.6, 0), ("EQUALIZE", 0.5, 0)),
    (("CONTRAST", 0.6, 7), ("SHARPNESS", 0.6, 5)),
    (("COLOR", 0.7, 7), ("TRANSLATE_X", 0.5, 8)),
    (("EQUALIZE", 0.3, 0), ("AUTO_CONTRAST", 0.4, 0)),
    (("TRANSLATE_Y", 0.4, 3), ("SHARPNESS", 0.2, 6)),
    (("BRIGHTNESS", 0.9, 6), ("COLOR", 0.2, 8)),
    (("SOLARIZE", 0.5, 2), ("INVERT", 0.0, 0)),
    (("EQUALIZE", 0.2, 0), ("AUTO_CONTRAST", 0.6, 0)),
    (("EQUALIZE", 0.2, 0), ("EQUALIZE", 0.6, 0)),
    (("COLOR", 0.9, 9), ("EQUALIZE", 0.6, 0)),
    (("AUTO_CONTRAST", 0.8, 0), ("SOLARIZE", 0.2, 8)),
    (("BRIGHTNESS", 0.1, 3), ("COLOR", 0.7, 0)),
    (("SOLARIZE", 0.4, 5), ("AUTO_CONTRAST", 0.9, 0)),
    (("TRANSLATE_Y", 0.9, 9), ("TRANSLATE_Y", 0.7, 9)),
    (("AUTO_CONTRAST", 0.9, 0), ("SOLARIZE", 0.8, 3)),
    (("EQUALIZE", 0.8, 0), ("INVERT", 0.1, 0)),
    (("TRANSLATE_Y", 0.7, 9), ("AUTO_CONTRAST", 0.9, 0)),
)
KINDS = torch.tensor([[Kind[name] for name, _, _ in pair] for pair in PAIRS])
PROBABILITIES = torch.tensor([[probability for _, probability, _ in pair] for pair in PAIRS])
CHOSEN_LEVELS = torch.tensor([[level for _, _, level in pair] for pair in PAIRS])


@dataclass(frozen=True, kw_only=True)
class AutoAugment(Operation):
    """A random pair of operations, each applied with its own probability and a random sign."""

    phase = "policy"
    draws = 5

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        return as_params(*self.drawn(uniform, *shape[1:]))

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return apply_in_turn(images, params)

    def drawn(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Operations from random numbers [B, 5]: kinds int64 [2, B], magnitudes float32 [2, B]."""
        policy = (KINDS, PROBABILITIES, magnitudes(space(height, width), LEVELS)[KINDS, CHOSEN_LEVELS])
        pair = (uniform[:, 0] * len(PAIRS)).long()
        kind, probability, magnitude = (table.to(uniform.device)[pair].T for table in policy)
        happens, direction = uniform[:, 1:].T.split(2)
        kind = torch.where(happens < probability, kind, Kind.IDENTITY)
        return kind, with_sign(kind, magnitude, direction)
