"""AugMix: a weighted mean of the image and several short chains of operations on it.

Hendrycks, Mu, Cubuk, Zoph, Gilmer and Lakshminarayanan, "AugMix: A Simple Data Processing Method to
Improve Robustness and Uncertainty", ICLR 2020, arXiv 1912.02781, algorithm 1. Operations, magnitudes and mixing are
those of torchvision.transforms.AugMix, with the paper's alpha = 1. The
paper's Jensen-Shannon loss between three versions of an image is not implemented.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation import Operation
from data.augmentation.operations import Kind, apply_in_turn, as_params, magnitudes, with_sign

LEVELS = 10
# The paper omits the corruptions of CIFAR-10-C: brightness, color, contrast, sharpness.
KINDS = torch.tensor(
    [
        Kind.SHEAR_X,
        Kind.SHEAR_Y,
        Kind.TRANSLATE_X,
        Kind.TRANSLATE_Y,
        Kind.ROTATE,
        Kind.POSTERIZE,
        Kind.SOLARIZE,
        Kind.AUTO_CONTRAST,
        Kind.EQUALIZE,
    ]
)


def space(height: int, width: int) -> tuple[tuple[Kind, float, float], ...]:
    """(operation, first magnitude, last magnitude); auto-contrast and equalize have none."""
    return (
        (Kind.SHEAR_X, 0.0, 0.3),
        (Kind.SHEAR_Y, 0.0, 0.3),
        (Kind.TRANSLATE_X, 0.0, width / 3),
        (Kind.TRANSLATE_Y, 0.0, height / 3),
        (Kind.ROTATE, 0.0, 30.0),
        (Kind.POSTERIZE, 4.0, 0.0),
        (Kind.SOLARIZE, 1.0, 0.0),
    )


@dataclass(frozen=True, kw_only=True)
class AugMix(Operation):
    """`chains` chains of one to `depth` operations, each with one of the lowest `severity` of ten magnitudes."""

    severity: int
    chains: int
    depth: int
    phase = "policy"

    @property
    def draws(self) -> int:
        """The weight of the original; a weight and a length for each chain; three numbers for each operation."""
        return 1 + self.chains * (2 + 3 * self.depth)

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """The weights, then the operations: [B, 1 + chains + chains * depth * 2]."""
        shares, kinds, sizes = self.drawn(uniform, *shape[1:])
        return torch.cat([shares.T, as_params(kinds.flatten(0, 1), sizes.flatten(0, 1)).flatten(1)], dim=1)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        shares = params[:, : 1 + self.chains].T[:, :, None, None, None]
        chains = params[:, 1 + self.chains :].unflatten(1, (self.chains, self.depth, 2)).unbind(1)
        mixed = images * shares[0]
        for share, chain in zip(shares[1:], chains, strict=True):
            mixed += apply_in_turn(images, chain, "bilinear") * share
        return mixed.to(torch.uint8)

    def drawn(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and operations from random numbers [B, draws].

        Weights of the original and of each chain, float32 [1 + chains, B]; kinds int64 and magnitudes
        float32 of the operations, [chains, depth, B]; identities after the end of a chain.
        """
        chains, depth = self.chains, self.depth
        original, weight, length, *numbers = uniform.T.split([1, chains, chains] + 3 * [chains * depth])
        # Beta(1, 1) is uniform; normalised exponential random numbers are Dirichlet(1, ..., 1).
        weight = (-torch.log1p(-weight)).clamp(min=torch.finfo(weight.dtype).tiny)  # avoids 0 / 0 with a single chain
        shares = torch.cat([original, (1 - original) * weight / weight.sum(0)])

        which, level, direction = (part.unflatten(0, (chains, depth)) for part in numbers)
        kind = KINDS.to(uniform.device)[(which * len(KINDS)).long()]
        table = magnitudes(space(height, width), LEVELS).to(uniform.device)
        magnitude = with_sign(kind, table[kind, (level * self.severity).long()], direction)
        position = torch.arange(depth, device=uniform.device)[:, None]
        runs = position < 1 + (length[:, None] * depth).long()  # [chains, depth, B]
        return shares, torch.where(runs, kind, Kind.IDENTITY), magnitude
