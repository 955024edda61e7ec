"""An exponential moving average of the weights.

Polyak and Juditsky 1992; with a decay as in Tarvainen and Valpola, "Mean teachers are better role
models", NeurIPS 2017, arXiv 1703.01780, sec. 3.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from engine.device.amp import Precision
from engine.device.buffers import copy_into


class EMA:
    """average <- d average + (1 - d) weights after each step; batch norm's running statistics likewise.

    d is min(`decay`, (1 + t) / (10 + t)) at step t, as in TensorFlow's ExponentialMovingAverage, so that the
    initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, max_epochs: int, decay: float):
        self.network = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.steps = 0
        # The tensors never change identity, and listing them at each step would take longer than averaging.
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

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.steps = state["steps"]
