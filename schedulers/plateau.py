"""The learning rate falls whenever the network has stopped improving.

As in Krizhevsky et al. 2012 (NeurIPS, sec. 5: a tenth "when the validation error rate stopped
improving with the current learning rate") and He et al. 2015 (arXiv 1512.03385, sec. 3.4, on
ImageNet). The one schedule that is fed: it cannot know its course beforehand. The same as
torch.optim.lr_scheduler.ReduceLROnPlateau with its relative threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

NOTHING_YET = {"loss": math.inf, "accuracy": -math.inf}


@dataclass(kw_only=True)
class Plateau:
    """`gamma` times as much whenever more than `patience` epochs in a row have not improved on the best `metric`.

    An improvement is one by more than the share `threshold`. After each fall `cooldown` epochs are
    not counted, nor is a warm-up, whose figures come of another learning rate; `final` is the least factor.
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
        """Take note of an epoch: its metric on the validation images or, where there are none, in training."""
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
        """Whether a value of the metric is better than the best so far by more than the threshold."""
        if self.metric == "loss":
            return value < self.best * (1 - self.threshold)
        return value > self.best * (1 + self.threshold)

    def state_dict(self) -> dict[str, float | str]:
        """What was seen so far, and the factor that came of it."""
        return {name: getattr(self, name) for name in ("metric", "factor", "best", "waited", "cooling")}

    def load_state_dict(self, state: Mapping[str, float | str]) -> None:
        """Go back to where `state_dict()` was taken.

        Nothing, from a run with another schedule, leaves it as it is; the best of another metric is forgotten.
        """
        known = ("factor", "best", "waited", "cooling") if state.get("metric") == self.metric else ("factor",)
        for name in known:
            setattr(self, name, state.get(name, getattr(self, name)))
