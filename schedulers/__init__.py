"""Learning-rate schedules: pure functions of how far the training has come.

A schedule is built with `start` and `end`, the epochs between which it runs (a warm-up may stand in
front of `start`), and maps a fractional epoch to a factor between 0 and 1 on the optimizer's
learning rate. It is evaluated at every optimizer step and keeps no state, so that there is nothing
to save; but for one that is fed the figures of each epoch (`Fed`). No torch here: a schedule is
drawn, tested and checked in milliseconds.

Wherever a schedule names a moment, a number below 1 is a share of the whole run and a number from
1 on is an epoch.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


def as_epoch(moment: float, end: float) -> float:
    """A moment as an epoch: below 1 it is a share of the run, which has `end` epochs."""
    return moment if moment >= 1 else round(moment * end, 9)  # 0.55 of 100 epochs is 55, also in floating point


def share(epoch: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` lies behind an epoch, from 0 to 1."""
    return min(max((epoch - start) / (end - start), 0.0), 1.0)


@runtime_checkable
class MetricSchedule(Protocol):
    """A schedule that looks at how the training goes, and so has a state, of plain values."""

    def step(self, record: Mapping[str, float]) -> None:
        """Take note of an epoch's figures, as they are in metrics.jsonl."""

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state_dict()` was taken."""


def fed_part(schedule: Callable[[float], float]) -> MetricSchedule | None:
    """What is to be fed of a schedule: itself, or what stands behind its warm-up; None for a pure function."""
    behind = getattr(schedule, "schedule", schedule)
    return behind if isinstance(behind, MetricSchedule) else None
