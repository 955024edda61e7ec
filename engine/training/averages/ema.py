"""An exponential moving average of the weights.

Polyak and Juditsky 1992; with a decay as in Tarvainen and Valpola, "Mean teachers are better role
models", NeurIPS 2017, arXiv 1703.01780, sec. 3.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from engine.device.buffers import copy_into
from engine.device.precision import Precision


class EMA:
    """average <- d average + (1 - d) weights after each step, batch norm's statistics likewise.

    d is `decay`, but at most (1 + t) / (10 + t) at step t, so that the first weights, which know
    nothing, are soon forgotten, as TensorFlow's ExponentialMovingAverage does.
    """

    def __init__(self, model: nn.Module, *, max_epochs: int, decay: float):
        self.network = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.steps = 0
        # Both networks keep their tensors as long as they live, and listing them takes longer than averaging.
        both = [list(network.state_dict().values()) for network in (self.network, model)]
        self.averaged, self.counters = (
            [[value for value in values if value.is_floating_point() == is_float] for values in both]
            for is_float in (True, False)
        )

    @torch.no_grad()
    def update(self, model: nn.Module, *, epoch: float) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        mine, theirs = self.averaged
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        copy_into(*self.counters)

    def settle(self, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
        """Nothing is to be done."""

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.steps = state["steps"]
