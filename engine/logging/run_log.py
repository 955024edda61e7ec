"""The record of a run: metrics.jsonl and result.json in its directory, lines on the console, and further sinks."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from data.dataset import Images
from engine.evaluation.evaluate import Evaluation
from engine.logging.console import say_epoch
from engine.logging.epoch_metrics import FINAL, is_of_split, tag
from engine.logging.sink import Begun, Ended, Sink
from engine.run.console import logger
from engine.run.directory import write_json, write_text
from engine.run.errors import Pruned
from engine.run.process import is_main_process
from engine.run.records import suffix


class RunLog:
    """The record of one run; a context manager that notes how the run ended.

    `records` are the figures of the epochs so far, which the training state keeps and this adds to. What cannot be
    written is reported once, and training continues; as soon as it can be written again, nothing is missing. Of
    several processes the main one writes, and the others only keep the records.
    """

    def __init__(self, begun: Begun, sinks: Sequence[Sink] = ()):
        self.begun, self.run, self.records = begun, begun.run, begun.records
        self.sinks = list(sinks)
        self.failed: set[str] = set()
        self.ended: Ended | None = None

    def __enter__(self) -> "RunLog":
        self.attempt(self.run.overrides.name, self.run.save_overrides)
        self.write_metrics()
        self.write_result("running")
        for sink in self.sinks:
            self.attempt(sink.name, lambda sink=sink: sink.begin(self.begun), Exception)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.ended = Ended(status="interrupted", result=self.write_result("interrupted"))
        elif isinstance(error, Pruned):
            self.ended = Ended(status="pruned", result=self.write_result("pruned"))
        elif error is not None:
            said = {"error": f"{type(error).__name__}: {error}"}
            self.ended = Ended(status="failed", result=self.write_result("failed", said))
        elif self.ended is None:
            self.ended = Ended(status="running", result=self.write_result("running"))
        self.to_sinks(lambda sink: sink.end(self.ended))

    def attempt(self, what: str, write: Callable[[], None], catch: type[Exception] = OSError) -> bool:
        """Write something that a run can do without. A failure is reported once, until it has succeeded again."""
        if not is_main_process():
            return True
        try:
            self.run.recreate()
            write()
        except catch as error:
            if what not in self.failed:
                reason = (error.strerror or error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                logger.info(f"{self.run}/{what} could not be written ({reason}): training continues")
            self.failed.add(what)
            return False
        self.failed.discard(what)
        return True

    def to_sinks(self, call: Callable[[Sink], None]) -> None:
        """Call each sink; one that fails, or has failed, is begun again with all records, and called once more."""

        def again(sink: Sink) -> None:
            sink.begin(self.begun)
            call(sink)

        for sink in self.sinks:
            if sink.name in self.failed or not self.attempt(sink.name, lambda sink=sink: call(sink), Exception):
                self.attempt(sink.name, lambda sink=sink: again(sink), Exception)

    def write_metrics(self) -> None:
        """Write metrics.jsonl from the first epoch on, so that it is whole whatever happened to it."""
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        self.attempt(self.run.metrics.name, lambda: write_text(self.run.metrics, text))

    def write_result(self, status: str, figures: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write result.json: the status, the facts, the number of epochs, and the figures."""
        speeds = [record["images_per_second"] for record in self.records]
        result = {
            "status": status,
            **self.begun.facts,
            "epochs": len(self.records),
            "seconds": self.records[-1]["seconds"] if self.records else 0.0,
            "images_per_second": statistics.median(speeds) if speeds else None,
            **(figures or {}),
        }
        self.attempt(self.run.result.name, lambda: write_json(self.run.result, result))
        return result

    def epoch(self, record: dict[str, Any], *, max_epochs: int) -> None:
        """Keep the figures of one epoch, plain numbers by name. Raises LookupError for a name that is not listed."""
        for name in record:
            tag(name)
        self.to_sinks(lambda sink: sink.epoch(record))
        self.records.append(record)
        self.write_metrics()
        say_epoch(record, max_epochs=max_epochs)

    def finish(
        self,
        figures: dict[str, Any],
        *,
        hyperparameters: dict[str, Any],
        tested: Evaluation | None = None,
        images: Images | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        """Keep the test figures, those of the chosen epoch, and what sinks show of the evaluation."""
        chosen = self.records[figures["chosen_epoch"] - 1]
        result = self.write_result(
            "finished", {name: value for name, value in chosen.items() if is_of_split(name)} | figures
        )
        # Validation figures are those of the weights that were tested.
        which = {name: name + suffix(result["chosen_weights"]) if name.startswith("val") else name for name in FINAL}
        self.ended = Ended(
            status="finished",
            result=result,
            hyperparameters=hyperparameters,
            final={name: result[key] for name, key in which.items() if key in result},
            tested=tested,
            images=images,
            classes=classes,
        )

    def rolled_back(self, error: Exception, *, step: int, rate: float) -> None:
        """Log that the run went back to a checkpoint; curves that had come further continue from there."""
        logger.info(f"{error}: going back to step {step}, with {rate:g} of the learning rate")
        self.write_metrics()
        self.to_sinks(lambda sink: sink.begin(self.begun))
