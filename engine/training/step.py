"""One optimizer update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from engine.device.buffers import keep_buffers
from engine.device.cuda_graphs import CudaGraphs
from engine.device.precision import Precision
from engine.distributed.ranks import ALONE, Ranks
from engine.training.sam import SAM
from engine.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Forward, backward and update on one batch, without waiting for the device.

    The batch is computed in `micro_batches` parts whose gradients add up to that of the whole; in fewer
    where a part would have a single image, since batch normalisation over one value has no meaning.
    With `sam` the gradient is taken at a neighbour of the weights. Gradients longer than
    `max_grad_norm` (over all parameters) are scaled down to it, and after the update so are the
    weights that come into a channel or unit if they are longer than `max_weight_norm`; 0 leaves them.
    With `skip_nonfinite` a batch whose loss or gradients are no numbers changes nothing but the
    count of steps; that does wait for the device.

    Where several `ranks` train together each has its share of the batch, of whose size `whole` is a function of
    the step: the gradient is that of the mean over the whole batch, however uneven the shares are.

    With `graphs` gradients are recorded and replayed, which is the same in less time.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    precision: Precision
    micro_batches: int
    sam: SAM | None
    max_grad_norm: float
    max_weight_norm: float
    skip_nonfinite: bool
    ranks: Ranks = ALONE
    whole: Callable[[int], int] | None = None
    graphs: CudaGraphs | None = None

    def __call__(self, state: TrainState, images: Tensor, targets: Tensor) -> None:
        """Update `state` with images float32 [B, C, H, W] and targets: int64 [B], or probabilities [B, K]."""
        state.optimizer.zero_grad()  # before the step: a record of the epoch looks at the gradient of the last
        restore = keep_buffers(state.model) if self.skip_nonfinite else None
        totals = self.gradients(state, images, targets)
        if self.sam:
            with self.sam.at_worst_neighbour(state.model):
                self.gradients(state, images, targets)
        if restore and not self.is_finite(state, totals):
            restore()
            state.skipped += 1
        else:
            self.update(state)
            state.add(totals)
        state.step += 1

    def is_finite(self, state: TrainState, totals: Tensor) -> bool:
        """Whether the loss and, but in fp16 where loss scaling sees to it, the gradients are numbers."""
        if state.scaler.is_enabled():
            return bool(totals[0].isfinite())
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        return bool((torch.nn.utils.get_total_norm(gradients) + totals[0]).isfinite())

    def update(self, state: TrainState) -> None:
        """Change the weights by the gradients that lie there."""
        if self.max_grad_norm:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self.max_weight_norm:
            limit_weights(state.model, self.max_weight_norm)

    def gradients(self, state: TrainState, images: Tensor, targets: Tensor) -> Tensor:
        """Give the network, which has none, its gradients, as `add_gradients` does."""
        compute = partial(self.add_gradients, state)
        return self.graphs(compute, state.model, images, targets) if self.graphs else compute(images, targets)

    def add_gradients(self, state: TrainState, images: Tensor, targets: Tensor) -> Tensor:
        """Add the gradient of the mean loss; float32 [3]: loss times images, correct answers, images."""
        totals = torch.zeros_like(state.totals)
        network, size = state.replica or state.model, self.ranks.size
        count = len(images) if size == 1 else self.whole(state.step)
        parts = max(min(self.micro_batches, count // size // 2), 1)
        cut = zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True)
        for number, (part, part_targets) in enumerate(cut, start=1):
            with self.ranks.part_of_batch(network, last=number == parts):
                with self.precision.autocast():
                    logits, *auxiliary = as_tuple(network(part))
                    loss = self.mean_loss(logits, part_targets)
                    for other in auxiliary:
                        loss = loss + state.model.auxiliary_weight * self.mean_loss(other, part_targets)
                # The replica's gradients are the mean over the ranks.
                state.scaler.scale(loss * (size * len(part) / count)).backward()
            with torch.no_grad():
                labels = part_targets if part_targets.ndim == 1 else part_targets.argmax(1)
                correct = (logits.argmax(1) == labels).sum()
                totals += torch.stack([loss * len(part), correct, torch.ones_like(loss) * len(part)])
        return self.ranks.sum(totals)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of some images; of none, which may be a rank's share, 0 with a gradient of 0."""
        return self.loss(logits, targets) if len(logits) else logits.sum()


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network yields in training: its logits, and behind them those of auxiliary heads if it has any."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


@torch.no_grad()
def limit_weights(model: nn.Module, longest: float) -> None:
    """Max-norm regularization: weights into a channel or unit that are longer than `longest` are scaled down to it.

    Srivastava et al. 2014, JMLR 15, sec. 5.1. Norms, biases and what is not trained are left alone.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.renorm_(2, 0, longest)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every parameter group `factor` times the learning rate that the optimizer was built with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
