"""The training loop, from the first step or a checkpoint to the last epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.loader import EvalLoader, TrainLoader
from engine.device.precision import Precision
from engine.distributed.ranks import Ranks
from engine.evaluation.evaluate import evaluate
from engine.logging.console import progress
from engine.logging.run_log import RunLog
from engine.run.errors import RunError
from engine.run.records import suffix
from engine.run.signals import StopRequest, raise_if_signalled
from engine.training.checkpoints import Checkpoints
from engine.training.state import TrainState
from engine.training.step import TrainStep, set_learning_rate


class Diverged(RunError):
    """Training diverged: the loss or a weight is NaN or inf; the message is one line that says when."""

    status = 1


def fit(
    state: TrainState,
    *,
    train: TrainLoader,
    after_epoch: Mapping[str, EvalLoader],
    train_step: TrainStep,
    max_epochs: int,
    log: RunLog,
    checkpoints: Checkpoints,
    roll_back: bool,
    pruning_callback: Callable[[Sequence[dict[str, Any]]], None],
) -> None:
    """Train `state` for `max_epochs` epochs.

    After each epoch the network and its averages are evaluated on the images of `after_epoch`; "val" chooses the best
    epoch. Checkpoints: "last" after each epoch, on a signal, and within epochs as configured; "best" when the
    validation accuracy is the highest so far. With `roll_back` a run that diverges restarts from the last checkpoint
    at half the learning rate. `pruning_callback` gets the records so far before each epoch, and may raise Pruned.
    Raises Interrupted after a signal, and Diverged.
    """
    state.start_clock(state.seconds_before)
    ranks = train_step.ranks
    with StopRequest() as stop:
        if roll_back and state.step == 0:
            checkpoints.save("last", state)
        while state.step < max_epochs * len(train):
            pruning_callback(state.records)
            try:
                record = train_epoch(
                    state, train, train_step, max_epochs=max_epochs, log=log, checkpoints=checkpoints, stop=stop
                )
                ranks.share_buffers(state.networks().values())
                record |= evaluations(state, after_epoch, train_step.precision, ranks)
                require_finite(state, record)
            except Diverged as trouble:
                if not (roll_back and checkpoints.roll_back(state)):
                    raise Diverged(f"{trouble}; {checkpoints}") from None
                log.rolled_back(trouble, step=state.step, rate=state.rate)
                continue
            state.step_schedule(record)
            log.epoch(record | {"seconds": state.seconds}, max_epochs=max_epochs)
            if "val" in after_epoch and state.is_best(record):
                checkpoints.save("best", state)
            checkpoints.save("last", state)
            raise_if_signalled(ranks.highest_signal(stop.signal))


def train_epoch(
    state: TrainState,
    train: TrainLoader,
    train_step: TrainStep,
    *,
    max_epochs: int,
    log: RunLog,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> dict[str, float]:
    """Train to the end of the current epoch and prepare the averages; its metrics by name."""
    begun, steps, images_before = time.perf_counter(), len(train), state.read_totals().images
    epoch, first_step = divmod(state.step, steps)
    state.model.train()
    batches = progress(
        train.epoch(epoch, first_step), state.read_totals, step=state.step, steps=steps, max_epochs=max_epochs
    )
    for images, targets in batches:
        set_learning_rate(state.optimizer, state.rate * state.schedule(state.step / steps))
        train_step(state, images, targets)
        for average in state.averages.values():
            average.update(state.model, epoch=state.step / steps)
        signal, due = train_step.ranks.all_reduce_max(stop.signal, checkpoints.due(state.step))
        if state.step % steps and (signal or due):
            require_finite(state, epoch_record(state, train), is_over=False)
            checkpoints.save("last", state)
            raise_if_signalled(signal)
    record = epoch_record(state, train)
    require_finite(state, record)
    record |= {name: norm for name, norm in state.norms().items() if math.isfinite(norm)}
    record["images_per_second"] = (state.take_totals().images - images_before) / (time.perf_counter() - begun)
    for average in state.averages.values():
        average.prepare(train.epoch(epoch), train_step.precision)
    return record


def epoch_record(state: TrainState, train: TrainLoader) -> dict[str, float]:
    """Training metrics of the epoch so far, by name.

    The accuracy on mixed images, which cannot reach 1, has a name of its own.
    """
    totals = state.read_totals()
    return {
        "epoch": math.ceil(state.step / len(train)),
        "train_loss": totals.loss,
        "train_accuracy_mixed" if train.mixings else "train_accuracy": totals.accuracy,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        **({"skipped_steps": state.skipped} if state.skipped else {}),
    }


def require_finite(state: TrainState, record: dict[str, float], *, is_over: bool = True) -> None:
    """Raise Diverged if the training or validation loss or a weight is NaN or inf.

    Also if every batch of an epoch that `is_over` was skipped.
    """
    totals, epoch, rate = state.read_totals(), f"epoch {record['epoch']}", record["learning_rate"]
    found = None
    if not math.isfinite(record["train_loss"]):
        found = f"the train loss became {record['train_loss']} in step {totals.finite_steps + 1} of {epoch}"
    elif not math.isfinite(record.get("val_loss", 0.0)):
        found = f"the val loss became {record['val_loss']} in {epoch}"
    elif is_over and state.skipped and not totals.images:
        found = f"no batch of {epoch} had a finite loss and gradient"
    elif not math.isfinite(state.weight_norm()):
        found = f"a weight became NaN or inf in {epoch}"
    if found:
        raise Diverged(f"{found}, learning rate {rate:.2g}")


def evaluations(
    state: TrainState, after_epoch: dict[str, EvalLoader], precision: Precision, ranks: Ranks
) -> dict[str, float]:
    """Metrics of the network and its averages, with names such as val_loss, or val_accuracy_ema for an average."""
    record = {}
    for images, batches in after_epoch.items():
        for weights, network in state.networks().items():
            figures = evaluate(network, batches, precision=precision, ranks=ranks)
            for quantity in ("loss", "accuracy", "top5_accuracy"):
                record[f"{images}_{quantity}{suffix(weights)}"] = getattr(figures, quantity)
    return record
