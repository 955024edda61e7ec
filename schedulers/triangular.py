"""Cyclical learning rates: linearly up to the full learning rate and down again, once or several times.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv 1506.01186, sec. 3.
The fastest CIFAR-10 trainings use one cycle with an early peak. The same as
torch.optim.lr_scheduler.CyclicLR with cycle_momentum=False.
"""

from dataclasses import dataclass

from schedulers import share


@dataclass(frozen=True, kw_only=True)
class Triangular:
    """`cycles` of equal length, each from `low` to 1 in the fraction `rise` of its length, then back to `low`."""

    start: float
    end: float
    cycles: int
    rise: float
    low: float

    def __call__(self, epoch: float) -> float:
        progress = share(epoch, self.start, self.end) * self.cycles
        within = progress - min(int(progress), self.cycles - 1)
        height = within / self.rise if within < self.rise else (1 - within) / (1 - self.rise)
        return self.low + (1 - self.low) * height
