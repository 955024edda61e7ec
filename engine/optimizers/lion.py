"""Lion: steps of the same size for every weight, in the direction of a sign.

Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv 2302.06675, algorithm 2.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """w <- w - lr (sign(b1 m + (1 - b1) g) + weight_decay w);  m <- b2 m + (1 - b2) g.

    Wants a learning rate three to ten times smaller and a weight decay as much larger than AdamW (sec. 5).
    """

    def __init__(self, params: Iterable[Any], *, lr: float, betas: Sequence[float], weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                direction = state["momentum"].lerp(parameter.grad, 1 - beta1).sign_()
                parameter.mul_(1 - lr * group["weight_decay"]).sub_(direction, alpha=lr)
                state["momentum"].lerp_(parameter.grad, 1 - beta2)
