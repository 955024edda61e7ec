"""What changes while a network trains."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.averages import Average
from engine.optimizers import load_memory
from engine.runtime import random_states, restore_random_states
from schedulers import fed_part


@dataclass
class TrainState:
    """All that training changes, and so all that a checkpoint has to hold.

    `totals` is float32 [3] on the network's device: loss times images, correct answers and images
    of the epoch that is under way. `step` counts optimizer updates since the beginning of the run.
    `best_weights` says which of the networks did best in validation. `schedule` maps a fractional
    epoch to a factor on the learning rate; it changes only if it is fed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: Tensor
    averages: dict[str, Average] = field(default_factory=dict)
    schedule: Callable[[float], float] = lambda epoch: 1.0  # until the number of steps an epoch is known
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: str = "model"

    def networks(self) -> dict[str, nn.Module]:
        """What can be evaluated: "model", and by its name each average that has begun."""
        begun = {name: average.network for name, average in self.averages.items() if average.network is not None}
        return {"model": self.model, **begun}

    def take_totals(self) -> tuple[float, float, int]:
        """Mean loss, accuracy and number of images since the epoch began; the next epoch begins with none."""
        loss, correct, images = self.totals.tolist()
        self.totals.zero_()
        return loss / images, correct / images, int(images)

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
            fed.observe(record)

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain values."""
        fed = fed_part(self.schedule)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals,
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "schedule": fed.state_dict() if fed else {},
            "step": self.step,
            "seconds": self.seconds,
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
        if fed := fed_part(self.schedule):
            fed.load_state_dict(state["schedule"])
        self.step, self.seconds = state["step"], state["seconds"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        self.best_weights = state["best_weights"]
        restore_random_states(state["random"])


def suffix(weights: str) -> str:
    """What the names of figures end with that belong to these weights: nothing for the network's own."""
    return "" if weights == "model" else f"_{weights}"


def weights_by_name(state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The weights that a checkpoint's state holds: "model", and by its name each average that had begun."""
    begun = {name: average["model"] for name, average in state["averages"].items() if average["model"]}
    return {"model": state["model"], **begun}


def result_weights(state: dict[str, Any], *, epoch: float) -> str:
    """The name of the weights that count in a checkpoint's state that was taken after `epoch` epochs.

    In the best epoch in validation those that did best; without validation the last average that
    has begun, if there is one; else the network's own.
    """
    if state["best_epoch"]:
        return state["best_weights"] if state["best_epoch"] == epoch else "model"
    return list(weights_by_name(state))[-1]
