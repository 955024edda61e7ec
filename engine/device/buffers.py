"""Copies of many tensors at once, and of batch norm's running statistics for a pass that shall leave none."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors, without gradients."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_into(copies, tensors)
    return copies


@torch.no_grad()
def copy_into(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give each tensor its values, on a GPU in one or two kernels: one for each takes Python longer to start."""
    for is_float in (True, False):  # weights and counters apart, as a kernel is for one type
        mine = [number for number, tensor in enumerate(tensors) if tensor.is_floating_point() == is_float]
        if mine:
            torch._foreach_copy_([tensors[number] for number in mine], [values[number] for number in mine])


def keep_buffers(model: nn.Module) -> Callable[[], None]:
    """Copy batch norm's running statistics; what is returned puts them back."""
    buffers = list(model.buffers())
    before = copied(buffers)
    return lambda: copy_into(buffers, before)
