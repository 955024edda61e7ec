"""What a run says and leaves behind: console lines, metrics.jsonl, result.json, TensorBoard."""

import json
import logging
import os
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from data.loader import TrainLoader
from engine.rundir import RunDirectory
from engine.runtime import Interrupted
from engine.state import TrainState, suffix

REFRESH_SECONDS = 0.5

say = logging.getLogger("cifar").info


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is never half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, allow_nan=True) + "\n")
    os.replace(part, path)


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class RunLog:
    """The record of one run, in its directory and on the console; a context that notes how the run ended.

    `facts` go into result.json beside the figures. A resumed run goes on with the same files: what
    they hold of epochs after `epochs_done` is dropped.
    """

    def __init__(self, run: RunDirectory, facts: dict[str, Any], *, epochs_done: int):
        self.run = run
        self.facts = facts
        lines = run.metrics.read_text().splitlines() if run.metrics.exists() else []
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines][:epochs_done]
        run.metrics.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        self.writer = SummaryWriter(str(run.tensorboard), purge_step=epochs_done + 1 if epochs_done else None)

    def __enter__(self) -> "RunLog":
        self.write_result("running")
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            self.write_result("interrupted")
        elif error is not None:
            self.write_result("failed", {"error": f"{type(error).__name__}: {error}"})
        self.writer.close()

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
        write_json(self.run.result, result)
        return result

    def first_batch(self, train: TrainLoader) -> None:
        """Keep the first augmented images as a picture."""
        images, _ = next(train.epoch(0))
        self.writer.add_images("first augmented batch", train.normalize.undo(images[:64]), 0)

    def progress(
        self, batches: Iterable[tuple[Tensor, Tensor]], state: TrainState, *, steps: int, max_epochs: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass the batches of one epoch on, with a bar where there is a terminal.

        Reading the figures waits for the device, so that it happens at most twice a second.
        """
        epoch, first_step = divmod(state.step, steps)
        begun = shown = time.perf_counter()
        title = f"epoch {epoch + 1}/{max_epochs}"
        with tqdm(desc=title, total=steps, initial=first_step, unit="step", leave=False, disable=None) as bar:
            for batch in batches:
                yield batch
                bar.update()
                now = time.perf_counter()
                if bar.disable or now - shown < REFRESH_SECONDS:
                    continue
                shown = now
                loss, correct, images = state.totals.tolist()
                pace = (now - begun) / (bar.n - first_step)  # seconds a step
                bar.set_postfix_str(
                    f"loss {loss / images:.3f}, accuracy {percent(correct / images)}, "
                    f"{images / bar.n / pace:,.0f} images/s, "
                    f"{duration(pace * (max_epochs * steps - state.step))} left in all"
                )

    def epoch(self, record: dict[str, Any], *, max_epochs: int) -> None:
        """Keep one epoch's figures: plain numbers by name, "epoch" and "seconds" since the beginning among them."""
        self.records.append(record)
        with open(self.run.metrics, "a") as file:
            file.write(json.dumps(record) + "\n")
        epoch = record["epoch"]
        for name, value in record.items():
            if shown := tag(name):
                self.writer.add_scalar(shown, value, epoch)
        self.writer.flush()
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
        for summary in hparams(hyperparameters, final):
            self.writer.file_writer.add_summary(summary)
        for name, value in final.items():
            self.writer.add_scalar(name, value, len(self.records))


FINAL = ("test_accuracy", "val_accuracy", "train_accuracy", "test_loss", "val_loss", "train_loss")


def accuracies(record: dict[str, Any], images: str) -> Iterator[str]:
    """Accuracies of an epoch on some images as a person reads them, each with what distinguishes it."""
    for name, value in record.items():
        kind = name.removeprefix(f"{images}_accuracy")
        if kind != name:
            yield f"{percent(value)} {kind.lstrip('_')}".rstrip()


OTHER_TAGS = {"learning_rate": "learning rate", "images_per_second": "speed/images per second"}
FIGURE = re.compile(r"(clean_train|train|val)_(top5_)?(loss|accuracy)(?:_(\w+))?")


def tag(name: str) -> str | None:
    """TensorBoard's name for a figure of an epoch: val_top5_accuracy_ema is accuracy/val top-5 ema; None: not shown."""
    if not (match := FIGURE.fullmatch(name)):
        return OTHER_TAGS.get(name)
    images, top5, quantity, which = match.groups()
    return " ".join(
        [f"{quantity}/{images.replace('_', ' ')}", *(["top-5"] if top5 else []), *([which] if which else [])]
    )
