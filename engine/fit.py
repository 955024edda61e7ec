"""Training, from the first step or from where it was interrupted, to the last epoch."""

import math
import time
from collections.abc import Callable

from data.loader import EvalLoader, TrainLoader
from engine.evaluate import evaluate
from engine.logging import RunLog
from engine.runtime import StopRequest
from engine.state import TrainState
from engine.step import TrainStep, set_learning_rate


class Diverged(Exception):
    """The loss is no longer a number; the message is one line that says when."""


def fit(
    state: TrainState,
    *,
    train: TrainLoader,
    val: EvalLoader,
    train_step: TrainStep,
    max_epochs: int,
    log: RunLog,
    save: Callable[[str], None],
) -> None:
    """Train `state` until it has seen the images `max_epochs` times.

    `save` keeps a checkpoint under a name: "last" after each epoch and, on a signal, after any step;
    "best" where the validation accuracy is the highest so far. Raises Interrupted after a signal and
    Diverged when the loss is no longer finite.
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
                if stop.signal and state.step % steps:
                    state.seconds += time.perf_counter() - begun
                    save("last")
                    stop.check()

            loss, accuracy, count = state.take_totals()
            trained = time.perf_counter()
            record = {
                "epoch": epoch + 1,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "learning_rate": state.optimizer.param_groups[0]["lr"],
                "images_per_second": (count - first_step * train.batch_size) / (trained - begun),
            }
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} in epoch {epoch + 1}, learning rate {record['learning_rate']:.2g}"
                )
            if len(val):
                figures = evaluate(state.model, val, precision=train_step.precision)
                record |= {
                    "val_loss": figures.loss,
                    "val_accuracy": figures.accuracy,
                    "val_top5_accuracy": figures.top5_accuracy,
                }
            state.feed_schedule(record)
            state.seconds += time.perf_counter() - begun
            log.epoch(record | {"seconds": state.seconds}, max_epochs=max_epochs)
            if len(val) and state.is_best(epoch + 1, figures.accuracy):
                save("best")
            save("last")
            stop.check()
