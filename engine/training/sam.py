"""Sharpness-aware minimisation: the gradient is computed where the loss is highest nearby.

Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, arXiv 2010.01412, eq. 2 and algorithm 1. Adaptive: Kwon, Kim, Park and
Choi, "ASAM", ICML 2021, arXiv 2102.11600, eq. 11, where distances are relative to the weights. As in
its authors' code (SamsungLabs/ASAM), a constant is added to the weights, and biases are treated as in SAM.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from engine.device.buffers import copied, copy_into, keep_buffers


@dataclass(frozen=True, kw_only=True)
class SAM:
    """Ascend by `radius` along the gradient; doubles the cost of a step.

    If `adaptive`, distances are in units of |w| + `eta` of each weight; without `eta` a weight of 0 would not move.
    """

    radius: float
    adaptive: bool
    eta: float

    @contextmanager
    def perturbed_weights(self, model: nn.Module) -> Iterator[None]:
        """Context in which `model` has perturbed weights, those of the highest loss nearby, and no gradients.

        On exit the weights and batch norm's running statistics are restored.
        """
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
        parameters = list(trained.values())
        with torch.no_grad():
            own = copied(parameters)
            uphill = [parameter.grad for parameter in parameters]
            if self.adaptive:
                # Scale the gradient by the units here, and the perturbation by them below.
                units = [
                    torch.ones_like(weight) if name.endswith("bias") else weight.abs().add_(self.eta)
                    for name, weight in zip(trained, own, strict=True)
                ]
                uphill = torch._foreach_mul(uphill, units)
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(uphill)))
            scale = self.radius / (norm + 1e-12)
            if self.adaptive:
                uphill = torch._foreach_mul(uphill, units)
            torch._foreach_add_(parameters, torch._foreach_mul(uphill, scale))
        model.zero_grad()
        restore = keep_buffers(model)
        try:
            yield
        finally:
            copy_into(parameters, own)
            restore()
