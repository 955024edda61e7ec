"""A warm-up that goes in front of any schedule.

Linear from zero: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
arXiv 1706.02677, sec. 2.2 ("gradual warmup"). Constant at a tenth: their "constant warmup" and He et
al. 2016, arXiv 1603.05027, appendix, for the first 400 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

# The share of the learning rate, from the share at the beginning and how much of the warm-up is over.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda first, progress: first + (1 - first) * progress,
    "exponential": lambda first, progress: first ** (1 - progress),
    "constant": lambda first, progress: first,
}


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """From `first` times the schedule's own value at `epochs` up to that value, then the schedule.

    Raises ValueError for an exponential warm-up from zero, which would never leave it.
    """

    schedule: Callable[[float], float]
    epochs: float
    shape: str
    first: float

    def __post_init__(self):
        if self.shape == "exponential" and self.first == 0:
            raise ValueError("an exponential warm-up cannot begin at 0: set scheduler.warmup_first")

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return self.schedule(epoch)
        return SHAPES[self.shape](self.first, epoch / self.epochs) * self.schedule(self.epochs)
