"""What changes while a network trains."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.device.seeds import random_states, restore_random_states
from engine.run.records import suffix
from engine.training.averages import Average
from engine.training.optimizers import load_memory
from schedulers import fed_part


class Totals(NamedTuple):
    """What an epoch's steps came to: mean loss, accuracy, images, and the steps before the loss was no number."""

    loss: float
    accuracy: float
    images: int
    finite_steps: int


@dataclass
class TrainState:
    """All that training changes, and so all that a checkpoint has to hold.

    `totals` is float32 [3] on the network's device: loss times images, correct answers and images of
    the epoch that is under way, `finite_steps` int64 [] how many steps it came to before its loss was
    no number, `skipped` how many changed nothing.
    `replica` is what training calls in place of the network where several processes share a batch.
    `step` counts batches since the beginning of the run, `records` are the figures of each epoch.
    `best_weights` says which of the networks did best in validation. `schedule` maps a fractional
    epoch to a factor on the learning rate, and changes only if it is fed; `rate` is a further factor,
    below 1 once the run has diverged and gone back.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: Tensor
    finite_steps: Tensor
    averages: dict[str, Average] = field(default_factory=dict)
    replica: nn.Module | None = None
    schedule: Callable[[float], float] = lambda epoch: 1.0  # until the number of steps an epoch is known
    rate: float = 1.0
    step: int = 0
    skipped: int = 0
    seconds_before: float = 0.0
    begun: float = field(default_factory=time.perf_counter)
    records: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: str = "model"

    def networks(self) -> dict[str, nn.Module]:
        """What can be evaluated: "model", and by its name each average that has begun."""
        begun = {name: average.network for name, average in self.averages.items() if average.network is not None}
        return {"model": self.model, **begun}

    def add(self, totals: Tensor) -> None:
        """Count a step, float32 [3] as in `totals`, without waiting for the device."""
        self.totals += totals
        loss = self.totals[0]
        self.finite_steps += loss - loss == 0  # torch.isfinite, in half as many operators

    def read_totals(self) -> Totals:
        """What the epoch has come to so far. Waits for the device."""
        loss, correct, images = self.totals.tolist()
        return Totals(loss / (images or 1), correct / (images or 1), int(images), int(self.finite_steps))

    def take_totals(self) -> Totals:
        """What the epoch came to; the next begins with none."""
        totals = self.read_totals()
        self.totals.zero_()
        self.finite_steps.zero_()
        self.skipped = 0
        return totals

    def weight_norm(self) -> float:
        """The L2 norm of all weights. Waits for the device."""
        return float(torch.nn.utils.get_total_norm([parameter.detach() for parameter in self.model.parameters()]))

    def norms(self) -> dict[str, float]:
        """The L2 norms of all weights, and of the gradient that the last step went along. Waits for the device.

        A gradient that was scaled for fp16 may lie there as it was, and is left out.
        """
        norms = {"weight_norm": self.weight_norm()}
        gradient = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if gradient and not self.scaler.is_enabled():
            norms["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradient))
        return norms

    @property
    def seconds(self) -> float:
        """How long the run has been training, in this process and before."""
        return self.seconds_before + time.perf_counter() - self.begun

    def start_clock(self, seconds: float = 0.0) -> None:
        """Count from now on, and from so many seconds."""
        self.seconds_before, self.begun = seconds, time.perf_counter()

    def is_best(self, record: dict[str, float]) -> bool:
        """Whether in this epoch one of the networks does better in validation than all before; if so it is kept.

        `record` holds the epoch and the figures of val_accuracy, val_accuracy_ema and so on.
        """
        accuracies = {weights: record[f"val_accuracy{suffix(weights)}"] for weights in self.networks()}
        weights = max(accuracies, key=accuracies.__getitem__)
        if accuracies[weights] <= self.best_accuracy:
            return False
        self.best_epoch, self.best_accuracy, self.best_weights = record["epoch"], accuracies[weights], weights
        return True

    def feed_schedule(self, record: dict[str, Any]) -> None:
        """Show an epoch's figures to the schedule, if it is one that looks at them."""
        if fed := fed_part(self.schedule):
            fed.step(record)

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain values."""
        fed = fed_part(self.schedule)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals,
            "finite_steps": self.finite_steps,
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "schedule": fed.state_dict() if fed else {},
            "rate": self.rate,
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
        """Go back to where `state_dict()` was taken."""
        self.model.load_state_dict(state["model"])
        load_memory(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty in any precision but fp16
            self.scaler.load_state_dict(state["scaler"])
        self.totals.copy_(state["totals"])
        self.finite_steps.copy_(state["finite_steps"])
        if fed := fed_part(self.schedule):
            fed.load_state_dict(state["schedule"])
        self.rate, self.step, self.skipped = state["rate"], state["step"], state["skipped"]
        self.start_clock(state["seconds"])
        self.records[:] = state["records"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        self.best_weights = state["best_weights"]
        restore_random_states(state["random"])
