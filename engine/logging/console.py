"""What the console shows of a run: a bar within an epoch, and a line after each."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from engine.run.console import Console, duration, logger, percent
from engine.run.process import is_main_process

REFRESH_SECONDS = 0.5


class Totals(Protocol):
    """The sums over the steps of an epoch so far."""

    images: int
    loss: float
    accuracy: float


def with_progress_bar(
    batches: Iterable[tuple[Tensor, Tensor]],
    read_totals: Callable[[], Totals],
    *,
    step: int,
    steps: int,
    max_epochs: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass on the batches of the epoch that `step` is in, with a bar on a terminal that no other job writes to.

    Reading the sums waits for the device, so the bar reads them at most twice a second.
    """
    epoch, first_step = divmod(step, steps)
    begun = shown = time.perf_counter()
    title = f"epoch {epoch + 1}/{max_epochs}"
    hidden = None if is_main_process() and not Console.label else True  # None: hidden unless on a terminal
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


def say_epoch(record: dict[str, Any], *, max_epochs: int) -> None:
    """Log one line with the figures of an epoch."""
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
    logger.info(f"epoch {epoch}/{max_epochs}: {', '.join(figures)}")


def accuracies(record: dict[str, Any], images: str) -> Iterator[str]:
    """The accuracies of an epoch on some images, in percent, each with the weights it belongs to."""
    for name, value in record.items():
        kind = name.removeprefix(f"{images}_accuracy")
        if kind != name:
            yield f"{percent(value)} {kind.lstrip('_')}".rstrip()
