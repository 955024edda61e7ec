"""LAMB: Adam's direction, with a step proportional to the norm of each layer's weights.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019,
arXiv 1904.00962, algorithm 2, with phi(z) = z. As in the authors' code, the parameters of normalisation layers and
all biases (one dimension) take AdamW's steps. So does a layer whose weights or update are all zero.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from engine.training.optimizers import tensors


class LAMB(Optimizer):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr r u.

    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay w;  r = |w| / |u| of each layer, and 1
    for parameters with one dimension.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: Sequence[float], eps: float, weight_decay: float = 0.0
    ):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters."""
        for group in self.param_groups:
            parameters, gradients, means, squares = tensors(self, group, mean=torch.zeros_like, square=torch.zeros_like)
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            group["step"] += 1

            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            roots = torch._foreach_div(squares, 1 - beta2 ** group["step"])
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group["eps"])
            updates = torch._foreach_div(means, 1 - beta1 ** group["step"])
            torch._foreach_div_(updates, roots)
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])

            layers = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
            if layers:
                weight = torch.stack(torch._foreach_norm([parameters[index] for index in layers]))
                update = torch.stack(torch._foreach_norm([updates[index] for index in layers]))
                ratio = torch.where((weight > 0) & (update > 0), weight / update, 1.0)
                torch._foreach_mul_([updates[index] for index in layers], ratio.unbind())
            torch._foreach_sub_(parameters, updates, alpha=group["lr"])
