"""The learning rate of stochastic weight averaging: full, then a linear decay to a constant.

Izmailov et al. 2018, arXiv 1803.05407, sec. 4.1 and appendix: as in the authors' code, full
for the first half of the time before averaging starts, then linear until nine tenths of it.
"""

from dataclasses import dataclass

from schedulers import as_epoch, share


@dataclass(frozen=True, kw_only=True)
class SWA:
    """1 up to halfway to `begin`, linearly down to `final` at nine tenths of the way, then constant.

    `begin` is when regularization=[swa] starts to average: an epoch, or below 1 a fraction of the run.
    Raises ValueError unless it is between `start` and `end`.
    """

    start: float
    end: float
    begin: float
    final: float

    def __post_init__(self):
        if not self.start < as_epoch(self.begin, self.end) <= self.end:
            raise ValueError(f"begin={self.begin:g} is not between epoch {self.start:g} and the last, {self.end:g}")

    def __call__(self, epoch: float) -> float:
        way = as_epoch(self.begin, self.end) - self.start
        return 1 + (self.final - 1) * share(epoch, self.start + 0.5 * way, self.start + 0.9 * way)
