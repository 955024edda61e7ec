"""Optimizers that torch.optim lacks, or has in another form than the papers of the networks used."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def tensors(
    optimizer: Optimizer, group: dict[str, Any], **first: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], ...]:
    """The parameters of a group that have gradients, the gradients, and for each name in `first` what is remembered.

    `first` makes what the memory of a parameter begins with. Lists of the same length, to be updated all
    at once; empty where there are no gradients.
    """
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter].update({name: make(parameter) for name, make in first.items()})
    memories = ([optimizer.state[parameter][name] for parameter in parameters] for name in first)
    return parameters, [parameter.grad for parameter in parameters], *memories


def load_memory(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load what an optimizer remembers, where "step" counts, and leave it its own settings.

    They are the same in a run that goes on, unless it was forced to go on with others.
    """
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "step")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # Fused updates go through memory, whatever the order of the numbers there.
                memory[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
