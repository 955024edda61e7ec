"""The learning rate decays by a factor every few epochs.

As in Szegedy et al. 2014 (arXiv 1409.4842, sec. 6: 4 % every 8 epochs) and Szegedy et al. 2015
(arXiv 1512.00567, sec. 8: 6 % every 2). The same as torch.optim.lr_scheduler.StepLR.
"""

from dataclasses import dataclass

from schedulers import as_epoch


@dataclass(frozen=True, kw_only=True)
class Step:
    """`gamma` ** (number of completed periods of length `every`, counted from epoch 0)."""

    start: float
    end: float
    every: float
    gamma: float

    def __call__(self, epoch: float) -> float:
        period = as_epoch(self.every, self.end)
        return self.gamma ** int(epoch / period + 1e-9)  # tolerance: 0.3 epochs are 3 periods of 0.1
