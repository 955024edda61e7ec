"""One optimizer update."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.runtime import Precision
from engine.state import TrainState


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Forward, backward and update on one batch, without waiting for the device.

    The batch is computed in `micro_batches` parts whose gradients add up to that of the whole.
    Gradients longer than `max_grad_norm` (over all parameters) are scaled down to it; 0 leaves them.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    precision: Precision
    micro_batches: int
    max_grad_norm: float

    def __call__(self, state: TrainState, images: Tensor, targets: Tensor) -> None:
        """Update `state` with images float32 [B, C, H, W] and targets: int64 [B], or probabilities [B, K]."""
        for part, part_targets in zip(images.chunk(self.micro_batches), targets.chunk(self.micro_batches), strict=True):
            with self.precision.autocast():
                logits, *auxiliary = as_tuple(state.model(part))
                loss = self.loss(logits, part_targets)
                for other in auxiliary:
                    loss = loss + state.model.auxiliary_weight * self.loss(other, part_targets)
            state.scaler.scale(loss * (len(part) / len(images))).backward()
            with torch.no_grad():
                labels = part_targets if part_targets.ndim == 1 else part_targets.argmax(1)
                correct = (logits.argmax(1) == labels).sum()
                state.totals += torch.stack([loss * len(part), correct, torch.ones_like(loss) * len(part)])
        if self.max_grad_norm:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        state.step += 1


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network yields in training: its logits, and behind them those of auxiliary heads if it has any."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every parameter group `factor` times the learning rate that the optimizer was built with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
