"""Count the multiply-adds, activations and peak memory of a model for one image."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

LAYERS = {
    torch.ops.aten.convolution,
    torch.ops.aten.addmm,
    torch.ops.aten.mm,
}  # convolutions, linear layers


class EagerMode(TorchDispatchMode):
    """A dispatch mode that does not import torch's compiler, which takes about a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class MultiplyAdds(EagerMode):
    """Counts the multiply-adds of operators within this context by torch's formulas, as `FlopCounterMode` does.

    `FlopCounterMode` counts two floating-point operations for each, and imports the compiler.
    """

    def __init__(self):
        super().__init__()
        self.formulas = FlopCounterMode(display=False).flop_registry
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if formula := self.formulas.get(function.overloadpacket):
            self.total += formula(*arguments, **(keywords or {}), out_val=output) // 2
        return output


def count_multiply_adds(model: nn.Module, image_shape: torch.Size) -> int:
    """Multiply-adds of one forward pass of one image [C, H, W] in evaluation mode."""
    with MultiplyAdds() as counter:
        run_forward(model, image_shape)
    return counter.total


def count_activations(model: nn.Module, image_shape: torch.Size) -> int:
    """Output elements of all convolutions and linear layers for one image [C, H, W] in evaluation mode.

    Radosavovic et al. 2020, "Designing Network Design Spaces", arXiv 2003.13678, sec. 4, which counts
    convolutions only: on an accelerator the running time correlates with these better than with multiply-adds.
    """
    with _LayerOutputs() as outputs:
        run_forward(model, image_shape)
    return outputs.numbers


@torch.no_grad()
def run_forward(model: nn.Module, image_shape: torch.Size) -> None:
    """Run `model` on one zero image [C, H, W] in evaluation mode, then restore its mode."""
    parameter, training = next(model.parameters()), model.training
    model.eval()
    model.forward(torch.zeros(1, *image_shape, device=parameter.device))  # uncompiled, also if calls are compiled
    model.train(training)


class _LayerOutputs(EagerMode):
    """Counts the output elements of convolutions and linear layers within this context."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if function.overloadpacket in LAYERS:
            self.numbers += output.numel()
        return output


class PeakMemory(EagerMode):
    """Tracks the `peak` memory, in bytes, of tensors that operators create within this context, or that were added.

    `known` tensors do not count, nor does an operator's temporary workspace: memory is read after each operator.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.known = {StorageWeakRef(tensor.untyped_storage()) for tensor in known}
        self.sizes: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def add(self, *tensors: Tensor) -> None:
        """Add live tensors, and drop those whose memory was freed."""
        self.sizes |= {
            StorageWeakRef(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in tensors
        }
        self.sizes = {ref: size for ref, size in self.sizes.items() if not (ref.expired() or ref in self.known)}
        self.peak = max(self.peak, sum(self.sizes.values()))

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        self.add(*(tensor for tensor in tree_leaves(output) if isinstance(tensor, Tensor)))
        return output
