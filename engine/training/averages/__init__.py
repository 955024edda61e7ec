"""Averages of the weights that training goes through, evaluated beside the weights themselves.

A run has them by name in alphabetical order; without validation the last one that has begun is its result.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from engine.device.precision import Precision


class Average(Protocol):
    """What an average is: built with the network whose weights it averages, `model`, and the run's `max_epochs`."""

    network: nn.Module | None
    """The network with averaged weights; None as long as nothing has been averaged."""

    def update(self, model: nn.Module, *, epoch: float) -> None:
        """Take in the weights after an optimizer step, `epoch` epochs after the beginning."""

    def settle(self, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
        """Make `network` ready for evaluation at the end of an epoch; `batches` are those of the epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain values: under "model" the network's weights if there is one, or None."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict()` was taken."""
