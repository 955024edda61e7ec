"""Half cosines one after the other, each of them starting from the full learning rate again.

Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
arXiv 1608.03983, eq. 5. The same as torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.
"""

import math
from dataclasses import dataclass

from schedulers import as_epoch


@dataclass(frozen=True, kw_only=True)
class CosineRestarts:
    """From 1 down to `final` in the first `period`, and again in each next, which is `multiplier` times as long."""

    start: float
    end: float
    period: float
    multiplier: float
    final: float

    def __call__(self, epoch: float) -> float:
        length = as_epoch(self.period, self.end)
        rest = max(epoch - self.start, 0.0)
        while rest > length - 1e-9:  # 390 times a 390th of an epoch need not be quite one in floating point
            rest -= length
            length *= self.multiplier
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * rest / length)) / 2
