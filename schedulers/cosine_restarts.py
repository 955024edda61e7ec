"""Cosine decay with warm restarts at the full learning rate.

Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
arXiv 1608.03983, eq. 5. The same as torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.
"""

import math
from dataclasses import dataclass

from schedulers import as_epoch


@dataclass(frozen=True, kw_only=True)
class CosineRestarts:
    """From 1 down to `final` in each period; each one is `multiplier` times as long as the one before."""

    start: float
    end: float
    period: float
    multiplier: float
    final: float

    def __call__(self, epoch: float) -> float:
        length = as_epoch(self.period, self.end)
        rest = max(epoch - self.start, 0.0)
        while rest > length - 1e-9:  # tolerance: 390 steps of 1/390 epoch may round to less than one
            rest -= length
            length *= self.multiplier
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * rest / length)) / 2
