"""The full learning rate until shortly before the end, then a linear decay.

Hu et al., "MiniCPM", 2024, arXiv 2404.06395, sec. 4; Haegele et al. 2024, arXiv 2405.18392. The
constant part is the same for runs of any length, so that a run can be shortened or extended.
"""

from dataclasses import dataclass

from schedulers import as_epoch, share


@dataclass(frozen=True, kw_only=True)
class StableDecay:
    """1, then linearly down to `final` in the last `decay` epochs (below 1: that fraction of the run).

    Raises ValueError if the decay is longer than the run after its warmup.
    """

    start: float
    end: float
    decay: float
    final: float

    def __post_init__(self):
        if as_epoch(self.decay, self.end) > self.end - self.start:
            raise ValueError(f"decay={self.decay:g} is longer than the run after its warmup")

    def __call__(self, epoch: float) -> float:
        begin = self.end - as_epoch(self.decay, self.end)
        return 1 - (1 - self.final) * share(epoch, begin, self.end)
