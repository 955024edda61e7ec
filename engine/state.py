"""What changes while a network trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.runtime import random_states, restore_random_states
from schedulers import fed_part


@dataclass
class TrainState:
    """All that training changes, and so all that a checkpoint has to hold.

    `totals` is float32 [3] on the network's device: loss times images, correct answers and images
    of the epoch that is under way. `step` counts optimizer updates since the beginning of the run.
    `schedule` maps a fractional epoch to a factor on the learning rate; it changes only if it is fed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: Tensor
    schedule: Callable[[float], float] = lambda epoch: 1.0  # until the number of steps an epoch is known
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0

    def take_totals(self) -> tuple[float, float, int]:
        """Mean loss, accuracy and number of images since the epoch began; the next epoch begins with none."""
        loss, correct, images = self.totals.tolist()
        self.totals.zero_()
        return loss / images, correct / images, int(images)

    def is_best(self, epoch: int, accuracy: float) -> bool:
        """Whether this validation accuracy is higher than in all epochs before; if so it is kept."""
        if accuracy <= self.best_accuracy:
            return False
        self.best_epoch, self.best_accuracy = epoch, accuracy
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
            "schedule": fed.state_dict() if fed else {},
            "step": self.step,
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict()` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.totals.copy_(state["totals"])
        if fed := fed_part(self.schedule):
            fed.load_state_dict(state["schedule"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        restore_random_states(state["random"])
