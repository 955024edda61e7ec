"""Training, from the first step or from where it was interrupted, to the last epoch."""

import math
import time
from collections.abc import Callable

from data.loader import EvalLoader, TrainLoader
from engine.evaluate import evaluate
from engine.logging import RunLog
from engine.machine import Precision
from engine.runtime import StopRequest
from engine.state import TrainState, suffix
from engine.step import TrainStep, set_learning_rate


class Diverged(Exception):
    """The loss is no longer a number; the message is one line that says when."""


def fit(
    state: TrainState,
    *,
    train: TrainLoader,
    after_epoch: dict[str, EvalLoader],
    train_step: TrainStep,
    max_epochs: int,
    log: RunLog,
    save: Callable[[str], None],
) -> None:
    """Train `state` until it has seen the images `max_epochs` times.

    After each epoch the network and its averages are evaluated on the images of `after_epoch`;
    "val" among them choose the best epoch. `save` keeps a checkpoint under a name: "last" after each epoch
    and, on a signal, after any step; "best" where the validation accuracy is the highest so far.
    Raises Interrupted after a signal and Diverged when the loss is no longer finite.
    """
    steps = len(train)
    with StopRequest() as stop:
        while state.step < max_epochs * steps:
            begun, (epoch, first_step) = time.perf_counter(), divmod(state.step, steps)
            state.model.train()
            batches = train.epoch(epoch, first_step)
            for images, targets in log.progress(batches, state, steps=steps, max_epochs=max_epochs):
                set_learning_rate(state.optimizer, state.schedule(state.step / steps))
                train_step(state, images, targets)
                for average in state.averages.values():
                    average.update(state.model, epoch=state.step / steps)
                if stop.signal and state.step % steps:
                    state.seconds += time.perf_counter() - begun
                    save("last")
                    stop.check()

            record = epoch_record(state, train, first_step, seconds=time.perf_counter() - begun)
            for average in state.averages.values():
                average.settle(train.epoch(epoch), train_step.precision)
            record |= evaluations(state, after_epoch, train_step.precision)
            require_finite(record)
            state.feed_schedule(record)
            state.seconds += time.perf_counter() - begun
            log.epoch(record | {"seconds": state.seconds}, max_epochs=max_epochs)
            if "val" in after_epoch and state.is_best(record):
                save("best")
            save("last")
            stop.check()


def epoch_record(state: TrainState, train: TrainLoader, first_step: int, *, seconds: float) -> dict[str, float]:
    """What an epoch's training came to, by name, where `seconds` were spent since its step `first_step`.

    An accuracy on mixed images, which no network could bring to 1, has a name of its own.
    """
    loss, accuracy, count = state.take_totals()
    epoch, rate = state.step // len(train), state.optimizer.param_groups[0]["lr"]
    return {
        "epoch": epoch,
        "train_loss": loss,
        "train_accuracy_mixed" if train.mixings else "train_accuracy": accuracy,
        "learning_rate": rate,
        "images_per_second": (count - first_step * train.batch_size) / seconds,
    }


def require_finite(record: dict[str, float]) -> None:
    """Raise Diverged if the network's loss in an epoch, in training or in validation, is no longer a number."""
    for images in ("train", "val"):
        loss = record.get(f"{images}_loss", 0.0)
        if not math.isfinite(loss):
            rate = record["learning_rate"]
            raise Diverged(f"the {images} loss became {loss} in epoch {record['epoch']}, learning rate {rate:.2g}")


def evaluations(state: TrainState, after_epoch: dict[str, EvalLoader], precision: Precision) -> dict[str, float]:
    """The figures of the network and its averages under names such as val_loss, or val_accuracy_ema for an average."""
    record = {}
    for images, batches in after_epoch.items():
        for weights, network in state.networks().items():
            figures = evaluate(network, batches, precision=precision)
            for quantity in ("loss", "accuracy", "top5_accuracy"):
                record[f"{images}_{quantity}{suffix(weights)}"] = getattr(figures, quantity)
    return record
