"""Learning-rate schedules: pure functions of the training progress.

A schedule is built with `start` and `end`, the epochs between which it runs (a warmup may precede
`start`), and maps a fractional epoch to a factor between 0 and 1 on the optimizer's learning rate.
It is evaluated at every optimizer step and has no state to save, except for schedules that depend
on a metric (`MetricSchedule`). torch is not imported here, so that schedules are plotted and checked
in milliseconds.

Points in time are epochs or, below 1, fractions of the whole run.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


def as_epoch(moment: float, end: float) -> float:
    """A point in time as an epoch; below 1 it is a fraction of the run, which has `end` epochs."""
    return moment if moment >= 1 else round(moment * end, 9)  # 0.55 of 100 epochs is 55, despite rounding


def share(epoch: float, start: float, end: float) -> float:
    """The progress from `start` to `end` at an epoch, clamped to [0, 1]."""
    return min(max((epoch - start) / (end - start), 0.0), 1.0)


@runtime_checkable
class MetricSchedule(Protocol):
    """A schedule that depends on a metric, and so has a state (plain values)."""

    def step(self, record: Mapping[str, float]) -> None:
        """Update the schedule with the record of an epoch, as in metrics.jsonl."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict()`."""


def metric_schedule(schedule: Callable[[float], float]) -> MetricSchedule | None:
    """The `MetricSchedule` in a schedule: itself, or the one after its warmup; None for a pure function."""
    after_warmup = getattr(schedule, "schedule", schedule)
    return after_warmup if isinstance(after_warmup, MetricSchedule) else None
