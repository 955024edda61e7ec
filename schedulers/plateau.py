"""The learning rate decays when a metric stops improving.

As in Krizhevsky et al. 2012 (NeurIPS, sec. 5: a tenth "when the validation error rate stopped
improving with the current learning rate") and He et al. 2015 (arXiv 1512.03385, sec. 3.4, on
ImageNet). The only schedule that depends on a metric. The same as
torch.optim.lr_scheduler.ReduceLROnPlateau with its relative threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

NOTHING_YET = {"loss": math.inf, "accuracy": -math.inf}


@dataclass(kw_only=True)
class Plateau:
    """Multiply the factor by `gamma` after more than `patience` epochs in a row without improvement of `metric`.

    An improvement is a relative change of more than `threshold`. The `cooldown` epochs after each decay
    do not count, nor do those of a warmup; `final` is the minimum factor.
    """

    start: float
    end: float
    metric: str
    gamma: float
    patience: int
    threshold: float
    cooldown: int
    final: float
    factor: float = field(default=1.0, init=False)
    best: float = field(init=False)
    waited: int = field(default=0, init=False)
    cooling: int = field(default=0, init=False)

    def __post_init__(self):
        self.best = NOTHING_YET[self.metric]

    def __call__(self, epoch: float) -> float:
        return self.factor

    def step(self, record: Mapping[str, float]) -> None:
        """Update with an epoch's metric, on the held-out validation images or, if there are none, in training."""
        if record["epoch"] <= self.start:
            return
        names = (f"val_{self.metric}", f"train_{self.metric}", f"train_{self.metric}_mixed")
        value = next(record[name] for name in names if name in record)
        if self.improves(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.cooling:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited > self.patience:
            self.factor = max(self.gamma * self.factor, self.final)
            self.cooling, self.waited = self.cooldown, 0

    def improves(self, value: float) -> bool:
        """Whether a value improves on the best one by more than the threshold."""
        if self.metric == "loss":
            return value < self.best * (1 - self.threshold)
        return value > self.best * (1 + self.threshold)

    def state_dict(self) -> dict[str, float | str]:
        """The state: the metric, its best value, the counters and the factor."""
        return {name: getattr(self, name) for name in ("metric", "factor", "best", "waited", "cooling")}

    def load_state_dict(self, state: Mapping[str, float | str]) -> None:
        """Restore the state from `state_dict()`.

        An empty state, of another schedule, changes nothing; from a state of another metric, only the factor is used.
        """
        known = ("factor", "best", "waited", "cooling") if state.get("metric") == self.metric else ("factor",)
        for name in known:
            setattr(self, name, state.get(name, getattr(self, name)))
