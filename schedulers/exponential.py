"""The learning rate decays by the same factor in every epoch. The same as torch.optim.lr_scheduler.ExponentialLR."""

from dataclasses import dataclass

from schedulers import share


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """From 1 at `start` down to `final` at `end`, linear on a logarithmic scale."""

    start: float
    end: float
    final: float

    def __call__(self, epoch: float) -> float:
        return self.final ** share(epoch, self.start, self.end)
