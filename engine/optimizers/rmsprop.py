"""RMSProp as TensorFlow has it, with which Inception v2 to v4 and the MobileNets were trained.

Tieleman and Hinton 2012, lecture 6.5; Szegedy et al. 2015, arXiv 1512.00567, sec. 8, with decay 0.9
and eps 1.0. It differs from torch.optim.RMSprop in three places: eps is added to the mean square
before the root is taken, so that eps = 1 has a meaning; the mean square begins at one; the learning
rate goes into the momentum, so that a change of it acts on later steps only.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class RMSprop(Optimizer):
    """v <- alpha v + (1 - alpha) g^2;  m <- momentum m + lr g / sqrt(v + eps);  w <- w - m.

    `weight_decay` joins the gradient.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, alpha: float, eps: float, momentum: float, weight_decay: float = 0.0
    ):
        super().__init__(
            params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["square"] = torch.ones_like(parameter)
                    state["momentum"] = torch.zeros_like(parameter)
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state["square"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
                root = state["square"].add(group["eps"]).sqrt_()
                state["momentum"].mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
                parameter.sub_(state["momentum"])
