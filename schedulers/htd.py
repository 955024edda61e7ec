"""Hyperbolic-tangent decay: a long time near the full learning rate, then a steep decay that levels out.

Hsueh, Li and Wu, "Stochastic Gradient Descent with Hyperbolic-Tangent Decay on Classification",
WACV 2019, arXiv 1806.01593, eq. 3.
"""

import math
from dataclasses import dataclass

from schedulers import share


@dataclass(frozen=True, kw_only=True)
class HTD:
    """(1 - tanh(x)) / 2, where x goes from `lower` at `start` to `upper` at `end`.

    Raises ValueError unless `lower` is below `upper`.
    """

    start: float
    end: float
    lower: float
    upper: float

    def __post_init__(self):
        if self.lower >= self.upper:
            raise ValueError(f"lower={self.lower:g} is not below upper={self.upper:g}")

    def __call__(self, epoch: float) -> float:
        x = self.lower + (self.upper - self.lower) * share(epoch, self.start, self.end)
        return (1 - math.tanh(x)) / 2
