"""The learning rate is a power of the remaining fraction of the run; linear for power 1.

As in Caffe's "poly" policy. The same as torch.optim.lr_scheduler.PolynomialLR, and with power 1 as LinearLR.
"""

from dataclasses import dataclass

from schedulers import share


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """From 1 at `start` down to `final` at `end`."""

    start: float
    end: float
    power: float
    final: float

    def __call__(self, epoch: float) -> float:
        return self.final + (1 - self.final) * (1 - share(epoch, self.start, self.end)) ** self.power
