"""Optimizers that torch.optim lacks, or has in another form than the networks' papers used."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def tensors(
    optimizer: Optimizer, group: dict[str, Any], **first: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], ...]:
    """The parameters of a group that have gradients, the gradients, and the state tensors of each name in `first`.

    `first` creates the initial state of a parameter. Lists of the same length, for `torch._foreach` functions; empty
    if there are no gradients.
    """
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter].update({name: make(parameter) for name, make in first.items()})
    states = ([optimizer.state[parameter][name] for parameter in parameters] for name in first)
    return parameters, [parameter.grad for parameter in parameters], *states


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, "step" included, but keep its current hyperparameters.

    They differ from the saved ones only if resume was forced with other settings.
    """
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "step")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for parameter, saved in optimizer.state.items():
        for name, value in saved.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # Fused updates ignore strides: state and parameter must have the same memory format.
                saved[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
