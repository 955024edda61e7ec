"""The learning rate follows half a period of a cosine.

Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
arXiv 1608.03983, eq. 5, with one period, without restarts.
"""

import math
from dataclasses import dataclass

from schedulers import share


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """From 1 at `start` down to `final` at `end`."""

    start: float
    end: float
    final: float

    def __call__(self, epoch: float) -> float:
        progress = share(epoch, self.start, self.end)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
