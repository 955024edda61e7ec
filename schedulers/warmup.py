"""Warmup before any schedule.

Linear: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv
1706.02677, sec. 2.2 ("gradual warmup"), starting from the learning rate of a single worker's batch;
most code since starts at zero. Constant: their "constant warmup", and at a tenth He et al. 2016,
arXiv 1603.05027, appendix, for the first 400 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

# The factor on the learning rate, from the initial factor and the progress of the warmup.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda first, progress: first + (1 - first) * progress,
    "exponential": lambda first, progress: first ** (1 - progress),
    "constant": lambda first, progress: first,
}


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """From `first` times the schedule's own value at `epochs` up to that value, then the schedule.

    Raises ValueError for a warmup that starts at zero and would stay there.
    """

    schedule: Callable[[float], float]
    epochs: float
    shape: str
    first: float

    def __post_init__(self):
        if self.shape != "linear" and self.first == 0:
            raise ValueError("a warmup of this shape stays at 0 if it starts there: set scheduler.warmup_first")

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return self.schedule(epoch)
        return SHAPES[self.shape](self.first, epoch / self.epochs) * self.schedule(self.epochs)
