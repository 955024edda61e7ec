"""Stochastic weight averaging: the mean of the weights at the end of each of the last epochs.

Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and
Better Generalization", UAI 2018, arXiv 1803.05407, algorithm 1, with a cycle of one epoch. The
learning-rate schedule is in schedulers/swa.py.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from engine.device.amp import Precision
from schedulers import as_epoch


class SWA:
    """Mean of the weights after each epoch from `start` on (an epoch, or a fraction of the run if below 1).

    Batch norm's statistics are recomputed on the epoch's batches (sec. 3.2). Raises ValueError if `start` is after
    `max_epochs`.
    """

    def __init__(self, model: nn.Module, *, max_epochs: int, start: float):
        if start > max_epochs:
            raise ValueError(f"start={start:g} is after the last epoch, {max_epochs}")
        self.averaged = AveragedModel(model)
        self.start = as_epoch(start, max_epochs)
        self.settled = True

    @property
    def network(self) -> nn.Module | None:
        return self.averaged.module if self.averaged.n_averaged else None

    def update(self, model: nn.Module, *, epoch: float) -> None:
        if epoch == int(epoch) and epoch >= self.start:
            self.averaged.update_parameters(model)
            self.settled = False

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
        if not self.settled:
            with precision.autocast():
                update_bn(batches, self.averaged)
            self.settled = True

    def state_dict(self) -> dict[str, Any]:
        count = int(self.averaged.n_averaged)
        return {"model": self.averaged.module.state_dict() if count else None, "count": count, "settled": self.settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["model"] is not None:
            self.averaged.module.load_state_dict(state["model"])
        self.averaged.n_averaged.fill_(state["count"])
        self.settled = state["settled"]
