"""The learning rate falls by the same factor at each milestone.

As in He et al. 2015 (arXiv 1512.03385, sec. 4.2: a tenth at half and at three quarters of the run)
and in most papers on CIFAR since. The same as torch.optim.lr_scheduler.MultiStepLR.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from schedulers import as_epoch


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """`gamma` to the power of the number of milestones passed; a milestone counts from its own epoch on.

    Raises ValueError for milestones that do not ascend or that lie behind the end.
    """

    start: float
    end: float
    milestones: Sequence[float]
    gamma: float

    def __post_init__(self):
        epochs = self.epochs
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            raise ValueError(f"milestones={list(self.milestones)} do not ascend")
        if epochs and epochs[-1] > self.end:
            given, last = list(self.milestones), self.milestones[-1]
            raise ValueError(f"milestones={given}: milestone {last:g} lies behind the last epoch, {self.end:g}")

    @property
    def epochs(self) -> list[float]:
        """The milestones as epochs."""
        return [as_epoch(milestone, self.end) for milestone in self.milestones]

    def __call__(self, epoch: float) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.epochs)
