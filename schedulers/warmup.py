"""A linear warm-up that goes in front of any schedule.

Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv 1706.02677,
sec. 2.2 ("gradual warmup"), from zero.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Warmup:
    """A straight line from 0 at the beginning to the schedule's own value after `epochs`, then the schedule."""

    schedule: Callable[[float], float]
    epochs: float

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return self.schedule(epoch)
        return epoch / self.epochs * self.schedule(self.epochs)
