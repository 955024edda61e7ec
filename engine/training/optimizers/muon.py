"""Muon for the hidden layers of a network, AdamW for the other parameters.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
kellerjordan.github.io/posts/muon; Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv 2502.16982.
Both are torch's. This class assigns the parameters, and passes a convolution to torch's Muon, which takes only
matrices, as a matrix.

Muon replaces a layer's momentum by the nearest matrix whose singular values are all about 1. AdamW takes the first
and the last layer, as Jordan advises, and auxiliary heads (layers with as many outputs as the last); the parameters
of normalisation layers and all biases, which are not matrices; and layers with a single output or a single input per
output, such as depthwise convolutions, where there is nothing to orthogonalise. A grouped convolution is one matrix,
not one for each group.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.training.optimizers import load_optimizer_state
from engine.training.optimizers.eager import eager


class Muon(eager(Optimizer)):
    """m <- momentum m + (1 - momentum) g;  w <- w - lr (0.2 sqrt(max(rows, columns)) O + weight_decay w).

    O is NewtonSchulz((1 - momentum) g + momentum m), or of m without `nesterov`. The factor matches the usual step
    size of AdamW (Liu et al., sec. 2.2), so that both share one learning rate and weight decay. `params` are groups,
    whose tensors of more than one dimension are in the order of the network's layers.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        betas: Sequence[float],
        eps: float,
        weight_decay: float = 0.0,
    ):
        groups = list(params)
        layers = [parameter for group in groups for parameter in group["params"] if parameter.ndim > 1]
        heads = {layer for layer in layers if layer.ndim == 2 and len(layer) == len(layers[-1])}
        hidden = {layer for layer in layers[1:-1] if min(layer.shape[:2]) > 1} - heads
        parts = [
            {**group, "params": [parameter for parameter in group["params"] if (parameter in hidden) == is_hidden]}
            for is_hidden in (True, False)
            for group in groups
        ]
        super().__init__([part for part in parts if part["params"]], {"lr": lr, "weight_decay": weight_decay})

        # Each group has one torch optimizer. Muon's works on matrices that are views of the weights.
        self.inner: list[Optimizer] = []
        self.matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        for group in self.param_groups:
            rates = {"lr": lr, "weight_decay": group["weight_decay"]}
            if group["params"][0] in hidden:
                matrices = [nn.Parameter(as_matrix(weight.detach(), like=weight)) for weight in group["params"]]
                self.matrices += zip(group["params"], matrices, strict=True)
                options = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
                self.inner.append(eager(torch.optim.Muon)(matrices, **rates, **options, adjust_lr_fn="match_rms_adamw"))
            else:
                adamw = eager(torch.optim.AdamW)
                self.inner.append(adamw(group["params"], **rates, betas=tuple(betas), eps=eps, fused=True))

    def step(self) -> None:
        """Update all parameters."""
        for group, optimizer in zip(self.param_groups, self.inner, strict=True):
            optimizer.param_groups[0]["lr"] = group["lr"]
        for weight, matrix in self.matrices:
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, like=weight)
        for optimizer in self.inner:
            optimizer.step()
        for _, matrix in self.matrices:
            matrix.grad = None  # else the gradient would stay allocated until the next step

    def state_dict(self) -> dict[str, Any]:
        """The groups' hyperparameters, and the state of torch's optimizers in the shapes of the weights."""
        inner = [self.changed(optimizer, optimizer.state_dict(), as_weight) for optimizer in self.inner]
        return super().state_dict() | {"inner": inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `state_dict()`."""
        super().load_state_dict(state_dict)
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            load_optimizer_state(optimizer, self.changed(optimizer, state, as_matrix))

    def changed(self, optimizer: Optimizer, state: dict[str, Any], change: Callable[..., Tensor]) -> dict[str, Any]:
        """The state of a torch optimizer with `change` applied to the state of each matrix."""
        weight_of = {matrix: weight for weight, matrix in self.matrices}
        weights = [weight_of.get(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        states = {
            number: {
                name: change(value, like=weights[number]) if weights[number] is not None else value
                for name, value in saved.items()
            }
            for number, saved in state["state"].items()
        }
        return state | {"state": states}


def as_weight(matrix: Tensor, *, like: Tensor) -> Tensor:
    """The inverse of `as_matrix`: a state matrix in the shape and memory format of the weight `like`."""
    weight = torch.empty_like(like, dtype=matrix.dtype)
    as_matrix(weight, like=like).copy_(matrix)
    return weight


def as_matrix(tensor: Tensor, *, like: Tensor) -> Tensor:
    """A weight or its gradient [outputs, ...] as a matrix [outputs, n], columns ordered by the strides of `like`.

    The result is a view of a weight in any memory format; Newton-Schulz does not depend on the order of columns. A
    tensor with another number of dimensions, a matrix of an older checkpoint, is returned unchanged.
    """
    if tensor.ndim != like.ndim:
        return tensor
    order = sorted(range(1, like.ndim), key=like.stride, reverse=True)
    return tensor.permute(0, *order).flatten(1)
