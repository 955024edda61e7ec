"""Sharpness-aware minimisation: the gradient is taken where the loss nearby is worst.

Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, arXiv 2010.01412, eq. 2 and algorithm 1. Adaptive: Kwon, Kim, Park and
Choi, "ASAM", ICML 2021, arXiv 2102.11600, eq. 11, where distances are relative to the weights, with
the constant that its authors' code (SamsungLabs/ASAM) adds to them, and which leaves biases as in SAM.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from engine.device.buffers import copied, copy_into, keep_buffers


@dataclass(frozen=True, kw_only=True)
class SAM:
    """Climbs `radius` along the gradient, which doubles the cost of a step.

    If `adaptive`, as many times |w| + `eta` of each weight: with no `eta` what is 0 would stay where it is.
    """

    radius: float
    adaptive: bool
    eta: float

    @contextmanager
    def at_worst_neighbour(self, model: nn.Module) -> Iterator[None]:
        """Within, `model` has the weights that its gradients say are worst nearby, and no gradients.

        Behind it the weights are its own again. Batch norm's running statistics stay those of the own weights.
        """
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
        parameters = list(trained.values())
        with torch.no_grad():
            own = copied(parameters)
            uphill = [parameter.grad for parameter in parameters]
            if self.adaptive:
                # The gradient in units of the weights, and below the way back from those units.
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
