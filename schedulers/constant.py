"""A constant learning rate."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The factor 1 throughout."""

    start: float
    end: float

    def __call__(self, epoch: float) -> float:
        return 1.0
