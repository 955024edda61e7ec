"""The learning rate decays by a factor at each milestone.

As in He et al. 2015 (arXiv 1512.03385, sec. 4.2: by 0.1 at 1/2 and at 3/4 of the run)
and in most papers on CIFAR since. The same as torch.optim.lr_scheduler.MultiStepLR.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from schedulers import as_epoch


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """`gamma` ** (number of milestones reached).

    Raises ValueError for milestones that are not ascending or are after `end`.
    """

    start: float
    end: float
    milestones: Sequence[float]
    gamma: float

    def __post_init__(self):
        epochs = self.epochs
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            raise ValueError(f"milestones={list(self.milestones)} are not in ascending order")
        if epochs and epochs[-1] > self.end:
            given, last = list(self.milestones), self.milestones[-1]
            raise ValueError(f"milestones={given}: milestone {last:g} is after the last epoch, {self.end:g}")

    @property
    def epochs(self) -> list[float]:
        """The milestones as epochs."""
        return [as_epoch(milestone, self.end) for milestone in self.milestones]

    def __call__(self, epoch: float) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.epochs)
