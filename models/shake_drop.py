"""ShakeDrop: residual branches are kept or scaled at random, with another random scale in the backward pass.

Yamada, Iwamura, Akiba and Kise, "ShakeDrop Regularization for Deep Residual Learning", 2018, arXiv
1802.02375, eq. 4, with alpha in [-1, 1] and beta in [0, 1], the best of table 2.
"""

import torch
from torch import Tensor, nn


class ShakeDrop(nn.Module):
    """In training, the branch of each image is kept with probability 1 - `rate`.

    Otherwise it is multiplied by alpha ~ U(-1, 1), and its gradient by beta ~ U(0, 1). In evaluation it is
    multiplied by the expected factor, 1 - `rate`. [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.rate)
        # Drawn in float32: bf16 draws are multiples of 1/256, too coarse to compare with a small rate.
        chance, alpha, beta = torch.rand(3, len(x), 1, 1, 1, device=x.device)
        kept = chance >= self.rate
        seen = torch.where(kept, 1.0, 2 * alpha - 1).to(x.dtype)
        differentiated = torch.where(kept, 1.0, beta).to(x.dtype) * x
        return differentiated + (seen * x - differentiated).detach()

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
