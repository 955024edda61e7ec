"""One rise to the full learning rate, then one long decay far below the initial one.

Smith and Topin, "Super-Convergence", 2017, arXiv 1708.07120, sec. 2; with cosine in place of
linear segments, as is usual since. The same as torch.optim.lr_scheduler.OneCycleLR with
cycle_momentum=False.
"""

import math
from dataclasses import dataclass

from schedulers import as_epoch, share


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """From `initial` at `start` to 1 at `peak`, then to `final` at `end`.

    Raises ValueError if `peak` is not between `start` and `end`.
    """

    start: float
    end: float
    peak: float
    initial: float
    final: float

    def __post_init__(self):
        if not self.start < as_epoch(self.peak, self.end) < self.end:
            raise ValueError(f"peak={self.peak:g} is not between epoch {self.start:g} and the last, {self.end:g}")

    def __call__(self, epoch: float) -> float:
        peak = as_epoch(self.peak, self.end)
        if epoch < peak:
            return between(self.initial, 1.0, share(epoch, self.start, peak))
        return between(1.0, self.final, share(epoch, peak, self.end))


def between(first: float, last: float, progress: float) -> float:
    """Cosine interpolation from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
