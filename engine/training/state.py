"""The state of a training run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.device.seeds import random_states, restore_random_states
from engine.run.records import suffix
from engine.training.averages import Average
from engine.training.optimizers import load_optimizer_state
from schedulers import metric_schedule


class Totals(NamedTuple):
    """Mean loss, accuracy and images of an epoch, and the steps before the loss became NaN or inf."""

    loss: float
    accuracy: float
    images: int
    finite_steps: int


def constant(epoch: float) -> float:
    """The schedule that leaves the learning rate as it is."""
    return 1.0


@dataclass
class TrainState:
    """All that training changes, and so all that a checkpoint has to hold.

    `totals` is float32 [3] on the network's device: loss times images, correct predictions and images of the current
    epoch. `finite_steps` int64 [] counts its steps before the loss became NaN or inf, `skipped` its skipped steps.
    `replica` is the DistributedDataParallel wrapper that training calls if several processes share a batch.
    `step` counts batches since the start of the run, `records` are the metrics of each epoch.
    `best_weights` names the network that was best in validation. `schedule` maps a fractional epoch to a factor on
    the learning rate; `lr_factor` is a further factor, below 1 once the run has diverged and been rolled back.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: Tensor
    finite_steps: Tensor
    averages: dict[str, Average] = field(default_factory=dict)
    replica: nn.Module | None = None
    schedule: Callable[[float], float] = constant
    lr_factor: float = 1.0
    step: int = 0
    skipped: int = 0
    seconds_before: float = 0.0
    begun: float = field(default_factory=time.perf_counter)
    records: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: str = "model"

    def networks(self) -> dict[str, nn.Module]:
        """The networks to evaluate: "model", and each average that has started, by name."""
        begun = {name: average.network for name, average in self.averages.items() if average.network is not None}
        return {"model": self.model, **begun}

    def add(self, totals: Tensor) -> None:
        """Add a step's float32 [3], as in `totals`, without waiting for the device."""
        self.totals += totals
        loss = self.totals[0]
        self.finite_steps += loss - loss == 0  # torch.isfinite, in half as many operators

    def read_totals(self) -> Totals:
        """The totals of the epoch so far. Waits for the device."""
        loss, correct, images = self.totals.tolist()
        return Totals(loss / (images or 1), correct / (images or 1), int(images), int(self.finite_steps))

    def read_and_reset_totals(self) -> Totals:
        """Read the totals of the epoch and reset them."""
        totals = self.read_totals()
        self.totals.zero_()
        self.finite_steps.zero_()
        self.skipped = 0
        return totals

    def weight_norm(self) -> float:
        """The L2 norm of all weights. Waits for the device."""
        return float(torch.nn.utils.get_total_norm([parameter.detach() for parameter in self.model.parameters()]))

    def norms(self) -> dict[str, float]:
        """The L2 norms of all weights, and of the last step's gradient. Waits for the device.

        The gradient is left out in fp16, where it may still be scaled.
        """
        norms = {"weight_norm": self.weight_norm()}
        gradient = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if gradient and not self.scaler.is_enabled():
            norms["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradient))
        return norms

    @property
    def seconds(self) -> float:
        """Training time of the run, in this process and before."""
        return self.seconds_before + time.perf_counter() - self.begun

    def start_clock(self, seconds: float = 0.0) -> None:
        """Start the clock at `seconds`."""
        self.seconds_before, self.begun = seconds, time.perf_counter()

    def is_best(self, record: dict[str, float]) -> bool:
        """Whether a network has a higher validation accuracy than ever before; if so, update `best_*`.

        `record` holds the epoch and val_accuracy, val_accuracy_ema and so on.
        """
        accuracies = {weights: record[f"val_accuracy{suffix(weights)}"] for weights in self.networks()}
        weights = max(accuracies, key=accuracies.__getitem__)
        if accuracies[weights] <= self.best_accuracy:
            return False
        self.best_epoch, self.best_accuracy, self.best_weights = record["epoch"], accuracies[weights], weights
        return True

    def step_schedule(self, record: dict[str, Any]) -> None:
        """Pass an epoch's metrics to the schedule, if it depends on them."""
        if fed := metric_schedule(self.schedule):
            fed.step(record)

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain values."""
        fed = metric_schedule(self.schedule)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals,
            "finite_steps": self.finite_steps,
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "schedule": fed.state_dict() if fed else {},
            "rate": self.lr_factor,
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "records": list(self.records),
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "best_weights": self.best_weights,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict()`."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty in any precision but fp16
            self.scaler.load_state_dict(state["scaler"])
        self.totals.copy_(state["totals"])
        self.finite_steps.copy_(state["finite_steps"])
        if fed := metric_schedule(self.schedule):
            fed.load_state_dict(state["schedule"])
        self.lr_factor, self.step, self.skipped = state["rate"], state["step"], state["skipped"]
        self.start_clock(state["seconds"])
        self.records[:] = state["records"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        self.best_weights = state["best_weights"]
        restore_random_states(state["random"])
