"""LARS: a learning rate for each layer, proportional to the norm of its weights.

You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017, arXiv 1708.03888,
algorithm 1 with the trust coefficient of eq. 6. As in every published large-batch result, the parameters of
normalisation layers and all biases (one dimension) take plain steps with momentum. So does a layer whose weights
or gradients are all zero, for which the ratio is undefined.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from engine.training.optimizers import tensors


class LARS(Optimizer):
    """m <- momentum m + lr r (g + weight_decay w);  w <- w - m.

    r = trust_coefficient |w| / (|g| + weight_decay |w|) of each layer, and 1 for parameters with one dimension.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "momentum": momentum, "trust_coefficient": trust_coefficient}
        super().__init__(params, defaults | {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters."""
        for group in self.param_groups:
            parameters, gradients, momenta = tensors(self, group, momentum=torch.zeros_like)
            if not parameters:
                continue
            updates = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])

            layers = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
            if layers:
                weight = torch.stack(torch._foreach_norm([parameters[index] for index in layers]))
                gradient = torch.stack(torch._foreach_norm([gradients[index] for index in layers]))
                ratio = group["trust_coefficient"] * weight / (gradient + group["weight_decay"] * weight)
                ratio = torch.where((weight > 0) & (gradient > 0), ratio, 1.0)
                torch._foreach_mul_([updates[index] for index in layers], ratio.unbind())

            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates, alpha=group["lr"])
            torch._foreach_sub_(parameters, momenta)
