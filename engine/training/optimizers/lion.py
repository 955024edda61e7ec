"""Lion: sign of an interpolated momentum; the same step size for every weight.

Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv 2302.06675, algorithm 2.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from engine.training.optimizers import tensors


class Lion(Optimizer):
    """w <- w - lr (sign(b1 m + (1 - b1) g) + weight_decay w);  m <- b2 m + (1 - b2) g.

    Use a learning rate 3 to 10 times smaller than AdamW's, and a weight decay larger by the same factor (sec. 5).
    """

    def __init__(self, params: Iterable[Any], *, lr: float, betas: Sequence[float], weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters."""
        for group in self.param_groups:
            parameters, gradients, momenta = tensors(self, group, momentum=torch.zeros_like)
            if not parameters:
                continue
            lr, (beta1, beta2) = group["lr"], group["betas"]

            directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            torch._foreach_sub_(parameters, directions, alpha=lr)
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
