"""TensorFlow's RMSProp, with which Inception v2 to v4 and the MobileNets were trained.

Tieleman and Hinton 2012, lecture 6.5; Szegedy et al. 2015, arXiv 1512.00567, sec. 8, with decay 0.9
and eps 1.0. It differs from torch.optim.RMSprop in three ways: eps is added to the mean square
before the square root, so that eps = 1 makes sense; the mean square is initialised to one; the
learning rate is applied before the momentum, so that changing it affects later steps only.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from engine.training.optimizers import tensors


class RMSprop(Optimizer):
    """v <- alpha v + (1 - alpha) g^2;  m <- momentum m + lr g / sqrt(v + eps);  w <- w - m.

    `weight_decay` is added to the gradient.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, alpha: float, eps: float, momentum: float, weight_decay: float = 0.0
    ):
        super().__init__(
            params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters."""
        for group in self.param_groups:
            parameters, gradients, squares, momenta = tensors(
                self, group, square=torch.ones_like, momentum=torch.zeros_like
            )
            if not parameters:
                continue
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_addcdiv_(momenta, gradients, roots, group["lr"])
            torch._foreach_sub_(parameters, momenta)
