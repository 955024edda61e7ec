"""The convolutions of the zoo in bfloat16 on the CPU: torch's kernels there have been wrong before."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support.networks import make, relative_error
from tests.support.runs import option_names


def convolutions() -> dict[tuple, tuple[nn.Conv2d, torch.Size]]:
    """Each kind of convolution that a network of the zoo has, with the shape that it sees of one 32x32 image."""
    found = {}

    def note(module: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        shape = inputs[0].shape[1:]
        kind = type(module), module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation
        found.setdefault((*kind, module.groups, module.bias is None, shape), (module, shape))

    for name in option_names("model"):
        with torch.device("meta"):
            model = make(name).eval()
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.register_forward_pre_hook(note)
            model(torch.zeros(1, 3, 32, 32))
    return found


def gradients(module: nn.Conv2d, images: Tensor, direction: Tensor, *, bf16: bool) -> list[Tensor]:
    """The derivative of the output along `direction` with respect to weight and input."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = module(images)
    return list(torch.autograd.grad(output, [module.weight, images], direction.to(output.dtype)))


def dirty_memory() -> None:
    """Leave nothing but NaN in the memory that the next tensors will be given."""
    for power in range(8, 22):
        torch.full((2**power,), torch.nan)


@pytest.mark.slow
def test_gradients_in_bfloat16():
    """Within what rounding explains of those in float32, and not made of memory that nobody has written."""
    wrong = {}
    for kind, (described, shape) in convolutions().items():
        torch.manual_seed(0)
        module = copy.deepcopy(described).to_empty(device="cpu").to(memory_format=torch.channels_last)
        module._forward_pre_hooks.clear()
        module.requires_grad_()  # also one that a network does not train
        module.reset_parameters()
        images = torch.randn(2, *shape).to(memory_format=torch.channels_last)
        direction = torch.randn_like(module(images))
        exact = gradients(module, images, direction, bf16=False)
        dirty_memory()
        found = gradients(module, images, direction, bf16=True)
        errors = [relative_error(*pair) for pair in zip(found, exact, strict=True)]
        if not max(errors) < 0.02:  # an error may be NaN
            wrong[kind] = errors
    assert not wrong
