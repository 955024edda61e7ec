"""Copy many tensors at once, and save and restore batch norm's running statistics."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors, detached."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_into(copies, tensors)
    return copies


@torch.no_grad()
def copy_into(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy `values` into `tensors`, on a GPU in one or two kernels instead of one per tensor."""
    for is_float in (True, False):  # weights and counters separately, since a kernel has one dtype
        mine = [number for number, tensor in enumerate(tensors) if tensor.is_floating_point() == is_float]
        if mine:
            torch._foreach_copy_([tensors[number] for number in mine], [values[number] for number in mine])


def keep_buffers(model: nn.Module) -> Callable[[], None]:
    """Save the model's buffers (batch norm's running statistics); the returned function restores them."""
    buffers = list(model.buffers())
    before = copied(buffers)
    return lambda: copy_into(buffers, before)
