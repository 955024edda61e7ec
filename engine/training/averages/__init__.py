"""Running averages of the weights, evaluated in addition to the weights themselves.

A run sorts them by name; without validation its result is the last one that has started.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from engine.device.amp import Precision


class Average(Protocol):
    """Interface of an average; the constructor takes `model`, whose weights are averaged, and `max_epochs`."""

    network: nn.Module | None
    """The network with averaged weights; None before the first update."""

    def update(self, model: nn.Module, *, epoch: float) -> None:
        """Update the average after an optimizer step; `epoch` is fractional."""

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
        """Prepare `network` for evaluation at the end of an epoch, given the training batches of that epoch."""

    def state_dict(self) -> dict[str, Any]:
        """State as tensors and plain values; "model" holds the averaged weights, or None."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict()`."""
