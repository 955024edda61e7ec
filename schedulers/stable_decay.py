"""The full learning rate until shortly before the end, then a straight fall.

Hu et al., "MiniCPM", 2024, arXiv 2404.06395, sec. 4; Haegele et al. 2024, arXiv 2405.18392. The
constant part is the same for runs of any length, so that a long run can be cut short and still end well.
"""

from dataclasses import dataclass

from schedulers import as_epoch, share


@dataclass(frozen=True, kw_only=True)
class StableDecay:
    """1, then in the last `decay` epochs (below 1: that share of the run) down to `final`.

    Raises ValueError where the decay takes longer than there is time.
    """

    start: float
    end: float
    decay: float
    final: float

    def __post_init__(self):
        if as_epoch(self.decay, self.end) > self.end - self.start:
            raise ValueError(f"decay={self.decay:g} is longer than the run behind its warm-up")

    def __call__(self, epoch: float) -> float:
        begin = self.end - as_epoch(self.decay, self.end)
        return 1 - (1 - self.final) * share(epoch, begin, self.end)
