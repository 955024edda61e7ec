"""What a run's record goes to: the protocol of a sink, and what it is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from data.dataset import Images
from data.loader import TrainLoader
from engine.evaluation.evaluate import Evaluation
from engine.run.directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run before its next epoch.

    Attributes:
        run: its directory.
        facts: what is known before training, as plain data: the options, parameters, versions.
        config: the composed configuration, as plain data.
        records: the figures of the epochs so far, one dict each; empty in a run that does not resume.
        model: the network.
        train: the training batches; None where a run has none to show.
    """

    run: RunDirectory
    facts: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    model: nn.Module | None = None
    train: TrainLoader | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run at its end.

    Attributes:
        status: "finished", "interrupted", "pruned" or "failed".
        result: what result.json holds.
        hyperparameters: what one compares runs by, flat; of a finished run, as all that follows.
        final: the figures to compare, by name.
        tested: the evaluation on the test images.
        images: the test images.
        classes: the names of the classes.
    """

    status: str
    result: dict[str, Any]
    hyperparameters: dict[str, bool | int | float | str] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    tested: Evaluation | None = None
    images: Images | None = None
    classes: Sequence[str] = ()


class Sink(Protocol):
    """Where the figures of a run go.

    A sink that raises is reported once, and training continues; before its next call it is begun again, with
    all records so far. A sink is begun again as well where a run goes back to an earlier checkpoint.
    """

    name: str

    def begin(self, begun: Begun) -> None:
        """Start, or resume after `begun.records`."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Add the figures of one epoch, by name (engine/logging/epoch_metrics.py)."""

    def end(self, ended: Ended) -> None:
        """Add the result, and close."""
