"""What a run says and leaves behind: console lines, metrics.jsonl, result.json, TensorBoard."""

import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import hparams, scalar
from tqdm import tqdm

from engine.logging.events import EventFile
from engine.run.console import Console, duration, percent, say
from engine.run.directory import RunDirectory, write_json, write_text
from engine.run.errors import Pruned
from engine.run.process import is_main_process
from engine.run.records import suffix

REFRESH_SECONDS = 0.5


class Totals(Protocol):
    """What the steps of an epoch have come to so far."""

    images: int
    loss: float
    accuracy: float


class RunLog:
    """The record of one run, in its directory and on the console; a context that notes how the run ended.

    `facts` go into result.json beside the figures; `records` are the figures of the epochs so far,
    one dict each, which the state of the run keeps and this adds to. A resumed run goes on with the
    same files. What cannot be written is said once, and training goes on; as soon as it can, the
    files are whole again. Of several processes the first writes, the others keep the records alone.
    """

    def __init__(self, run: RunDirectory, facts: dict[str, Any], records: list[dict[str, Any]]):
        self.run = run
        self.facts = facts
        self.records = records
        self.refused: set[str] = set()
        self.events: EventFile | None = None
        self.has_curves = run.tensorboard.is_dir()  # whether all epochs but perhaps the last are in TensorBoard's files

    def __enter__(self) -> "RunLog":
        self.attempt(self.run.overrides.name, self.run.keep_words)
        self.write_metrics()
        self.write_result("running")
        self.in_tensorboard(lambda events: None)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.write_result("interrupted")
        elif isinstance(error, Pruned):
            self.write_result("pruned")
        elif error is not None:
            self.write_result("failed", {"error": f"{type(error).__name__}: {error}"})
        self.close_events()

    def attempt(self, what: str, write: Callable[[], None]) -> bool:
        """Write something that a run can do without; if that fails, say so, but only once in a row."""
        if not is_main_process():
            return True
        try:
            self.run.provide()
            write()
        except OSError as error:
            if what not in self.refused:
                say(f"{self.run}/{what} could not be written ({error.strerror or error}): training goes on")
            self.refused.add(what)
            return False
        self.refused.discard(what)
        return True

    def write_metrics(self) -> None:
        """Write metrics.jsonl anew, as it then is whole whatever happened to it."""
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        self.attempt(self.run.metrics.name, lambda: write_text(self.run.metrics, text))

    def in_tensorboard(self, add: Callable[[EventFile], None]) -> None:
        """Add to TensorBoard's file, in a new one with all curves if the last has failed."""

        def write() -> None:
            if self.events is None:
                # The last epoch is written again, since the end of the run may stand at the same step.
                known = max(len(self.records) - 1, 0) if self.has_curves else 0
                self.events = EventFile(self.run.tensorboard, step=known)
                for record in self.records[known:]:
                    add_record(self.events, record)
            add(self.events)
            self.events.flush()

        was_open = self.events is not None
        self.has_curves = self.attempt(self.run.tensorboard.name, write)
        if not self.has_curves:
            self.close_events()
            if was_open:  # a new file may do, above all if the old one was deleted
                self.in_tensorboard(add)

    def write_result(self, status: str, figures: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write result.json: the status, the facts, how far the run has come, and the figures."""
        speeds = [record["images_per_second"] for record in self.records]
        result = {
            "status": status,
            **self.facts,
            "epochs": len(self.records),
            "seconds": self.records[-1]["seconds"] if self.records else 0.0,
            "images_per_second": statistics.median(speeds) if speeds else None,
            **(figures or {}),
        }
        self.attempt(self.run.result.name, lambda: write_json(self.run.result, result))
        return result

    def show(self, summaries: Iterable[Summary]) -> None:
        """Keep texts and pictures in TensorBoard, at the epoch to which the run has come."""
        kept = list(summaries)

        def add(events: EventFile) -> None:
            for summary in kept:
                events.add(summary, len(self.records))

        self.in_tensorboard(add)

    def show_graph(self, graph: GraphDef) -> None:
        """Keep the network's operators in TensorBoard."""
        self.in_tensorboard(lambda events: events.add_graph(graph))

    def progress(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        read_totals: Callable[[], Totals],
        *,
        step: int,
        steps: int,
        max_epochs: int,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass on the batches of the epoch that `step` is in, with a bar on a terminal that no other job writes to.

        Reading the figures waits for the device, so that it happens at most twice a second.
        """
        epoch, first_step = divmod(step, steps)
        begun = shown = time.perf_counter()
        title = f"epoch {epoch + 1}/{max_epochs}"
        hidden = None if is_main_process() and not Console.label else True  # None: where there is no terminal
        with tqdm(desc=title, total=steps, initial=first_step, unit="step", leave=False, disable=hidden) as bar:
            for batch in batches:
                yield batch
                bar.update()
                now = time.perf_counter()
                if bar.disable or now - shown < REFRESH_SECONDS:
                    continue
                shown = now
                totals = read_totals()
                pace = (now - begun) / (bar.n - first_step)  # seconds a step
                bar.set_postfix_str(
                    f"loss {totals.loss:.3f}, accuracy {percent(totals.accuracy)}, "
                    f"{totals.images / bar.n / pace:,.0f} images/s, "
                    f"{duration(pace * ((max_epochs - epoch) * steps - bar.n))} left in all"
                )

    def epoch(self, record: dict[str, Any], *, max_epochs: int) -> None:
        """Keep one epoch's figures: plain numbers by name, "epoch" and "seconds" since the beginning among them."""
        self.in_tensorboard(lambda events: add_record(events, record))
        self.records.append(record)
        self.write_metrics()
        epoch = record["epoch"]
        figures = [
            f"{images.replace('_', ' ')} loss {record[f'{images}_loss']:.4f} "
            f"accuracy {', '.join(accuracies(record, images))}"
            for images in ("train", "clean_train", "val")
            if f"{images}_loss" in record
        ]
        figures.append(f"learning rate {record['learning_rate']:.2g}")
        figures.append(f"{record['images_per_second']:,.0f} images/s")
        figures.append(f"{duration(record['seconds'] / epoch * (max_epochs - epoch))} left")
        say(f"epoch {epoch}/{max_epochs}: {', '.join(figures)}")

    def finish(self, figures: dict[str, Any], *, hyperparameters: dict[str, Any]) -> None:
        """Keep the test figures, and in TensorBoard the hyper-parameters beside them, in this same run."""
        chosen = self.records[figures["chosen_epoch"] - 1]
        result = self.write_result(
            "finished",
            {name: value for name, value in chosen.items() if FIGURE.fullmatch(name)} | figures,
        )
        # Validation figures are those of the weights that were tested.
        which = {name: name + suffix(result["chosen_weights"]) if name.startswith("val") else name for name in FINAL}
        final = {f"final/{name}": result[key] for name, key in which.items() if key in result}

        def add(events: EventFile) -> None:
            for summary in hparams(hyperparameters, final):
                events.add(summary, 0)
            for name, value in final.items():
                events.add(scalar(name, value), len(self.records))

        self.in_tensorboard(add)

    def rolled_back(self, trouble: Exception, *, step: int, rate: float) -> None:
        """Say that the run has gone back to a checkpoint and, where curves had come further, begin them anew there."""
        say(f"{trouble}: going back to step {step}, with {rate:g} of the learning rate")
        self.write_metrics()
        self.close_events()

    def close_events(self) -> None:
        """End TensorBoard's file; what follows goes into a new one."""
        events, self.events = self.events, None
        if events:
            self.attempt(self.run.tensorboard.name, events.close)


def add_record(events: EventFile, record: dict[str, Any]) -> None:
    """Add an epoch's figures to TensorBoard's curves."""
    for name, value in record.items():
        if shown := tag(name):
            events.add(scalar(shown, value), record["epoch"])


FINAL = ("test_accuracy", "val_accuracy", "train_accuracy", "test_loss", "val_loss", "train_loss")


def accuracies(record: dict[str, Any], images: str) -> Iterator[str]:
    """Accuracies of an epoch on some images as a person reads them, each with what distinguishes it."""
    for name, value in record.items():
        kind = name.removeprefix(f"{images}_accuracy")
        if kind != name:
            yield f"{percent(value)} {kind.lstrip('_')}".rstrip()


OTHER_TAGS = {
    "learning_rate": "learning rate",
    "images_per_second": "speed/images per second",
    "skipped_steps": "skipped steps",
    "weight_norm": "norm/weights",
    "gradient_norm": "norm/gradient of the last step",
}

FIGURE = re.compile(r"(clean_train|train|val)_(top5_)?(loss|accuracy)(?:_(\w+))?")


def tag(name: str) -> str | None:
    """TensorBoard's name for a figure of an epoch: val_top5_accuracy_ema is accuracy/val top-5 ema; None: not shown."""
    if not (match := FIGURE.fullmatch(name)):
        return OTHER_TAGS.get(name)
    images, top5, quantity, which = match.groups()
    return " ".join(
        [f"{quantity}/{images.replace('_', ' ')}", *(["top-5"] if top5 else []), *([which] if which else [])]
    )
