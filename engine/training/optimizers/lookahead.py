"""Lookahead around SGD: after k steps, go back to a point between the first and the last weights.

Zhang, Lucas, Hinton and Ba, "Lookahead Optimizer: k steps forward, 1 step back", 2019, arXiv 1907.08610,
algorithm 1. SGD's momentum is kept when the weights go back. In between the network has the fast weights, also in
validation; the paper evaluates the slow ones.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import SGD

from engine.training.optimizers.eager import eager


class LookaheadSGD(eager(SGD)):
    """After every k steps of SGD: slow <- slow + alpha (w - slow);  w <- slow."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        k: int,
        alpha: float,
        fused: bool | None,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused)
        # GradScaler must skip step() itself on overflow, else the step below is counted: not left to the fused kernel.
        self._step_supports_amp_scaling = False
        for group in self.param_groups:
            group.update(k=k, alpha=alpha, step=0)

    @torch.no_grad()
    def step(self) -> None:
        """Update the fast weights, and at every k-th step the slow ones."""
        for group in self.param_groups:
            if group["step"] == 0:
                for parameter in group["params"]:
                    self.state[parameter]["slow"] = parameter.clone()
        super().step()
        for group in self.param_groups:
            group["step"] += 1
            if group["step"] % group["k"] == 0:
                slow = [self.state[parameter]["slow"] for parameter in group["params"]]
                torch._foreach_lerp_(slow, group["params"], group["alpha"])
                torch._foreach_copy_(group["params"], slow)
