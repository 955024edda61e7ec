"""One optimizer update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from engine.device.amp import Precision
from engine.device.buffers import keep_buffers
from engine.device.cuda_graphs import CudaGraphs
from engine.distributed.ranks import ALONE, Ranks
from engine.training.sam import SAM
from engine.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Forward, backward and update on one batch, without waiting for the device.

    The batch is split into `gradient_accumulation` parts; into fewer if a part would have a
    single image, over which batch normalisation is undefined. With `sam` the gradient is computed at perturbed
    weights. The gradient norm (over all parameters) is clipped to `max_grad_norm`, and after the update the norm of
    the weights into each channel or unit to `max_weight_norm`; 0 disables either. With `skip_nonfinite` a batch whose
    loss or gradient is NaN or inf changes nothing but the count of steps; that waits for the device.

    With several `ranks` each has its share of the batch, and `global_batch_size` gives the size of the whole batch at
    a step: the gradient is that of the mean over the whole batch, however uneven the shares are.

    With `graphs` forward and backward are captured in a CUDA graph.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    precision: Precision
    gradient_accumulation: int
    sam: SAM | None
    max_grad_norm: float
    max_weight_norm: float
    skip_nonfinite: bool
    ranks: Ranks = ALONE
    global_batch_size: Callable[[int], int] | None = None
    graphs: CudaGraphs | None = None

    def __call__(self, state: TrainState, images: Tensor, targets: Tensor) -> None:
        """Update `state` with images float32 [B, C, H, W] and targets: int64 [B], or probabilities [B, K]."""
        state.optimizer.zero_grad()  # before the step: the epoch's record reads the last gradient
        restore = keep_buffers(state.model) if self.skip_nonfinite else None
        totals = self.gradients(state, images, targets)
        if self.sam:
            with self.sam.perturbed_weights(state.model):
                self.gradients(state, images, targets)
        if restore and not self.is_finite(state, totals):
            restore()
            state.skipped += 1
        else:
            self.update(state)
            state.add(totals)
        state.step += 1

    def is_finite(self, state: TrainState, totals: Tensor) -> bool:
        """Whether the loss and the gradients are finite; in fp16 GradScaler checks the gradients."""
        if state.scaler.is_enabled():
            return bool(totals[0].isfinite())
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        return bool((torch.nn.utils.get_total_norm(gradients) + totals[0]).isfinite())

    def update(self, state: TrainState) -> None:
        """Update the weights with the current gradients."""
        if self.max_grad_norm:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self.max_weight_norm:
            limit_weights(state.model, self.max_weight_norm)

    def gradients(self, state: TrainState, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradients of the network, which has none yet, as `add_gradients` does."""
        compute = partial(self.add_gradients, state)
        return self.graphs(compute, state.model, images, targets) if self.graphs else compute(images, targets)

    def add_gradients(self, state: TrainState, images: Tensor, targets: Tensor) -> Tensor:
        """Accumulate the gradient of the mean loss; float32 [3]: loss times images, correct predictions, images."""
        totals = torch.zeros_like(state.totals)
        network, size = state.replica or state.model, self.ranks.size
        count = len(images) if size == 1 else self.global_batch_size(state.step)
        parts = max(min(self.gradient_accumulation, count // size // 2), 1)
        cut = zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True)
        for number, (part, part_targets) in enumerate(cut, start=1):
            with self.ranks.part_of_batch(network, last=number == parts):
                with self.precision.autocast():
                    logits, *auxiliary = as_tuple(network(part))
                    loss = self.mean_loss(logits, part_targets)
                    for other in auxiliary:
                        loss = loss + state.model.auxiliary_weight * self.mean_loss(other, part_targets)
                # DistributedDataParallel averages gradients over the ranks.
                state.scaler.scale(loss * (size * len(part) / count)).backward()
            with torch.no_grad():
                labels = part_targets if part_targets.ndim == 1 else part_targets.argmax(1)
                correct = (logits.argmax(1) == labels).sum()
                totals += torch.stack([loss * len(part), correct, torch.ones_like(loss) * len(part)])
        return self.ranks.sum(totals)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss; for an empty batch, which a rank may get, 0 with a gradient of 0."""
        return self.loss(logits, targets) if len(logits) else logits.sum()


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A network's outputs in training: its logits, followed by those of its auxiliary heads, if any."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


@torch.no_grad()
def limit_weights(model: nn.Module, longest: float) -> None:
    """Max-norm regularization: clip the norm of the weights into each channel or unit to `longest`.

    Srivastava et al. 2014, JMLR 15, sec. 5.1. One-dimensional and frozen parameters are not changed.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.renorm_(2, 0, longest)


def scale_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times the one that the optimizer was built with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
