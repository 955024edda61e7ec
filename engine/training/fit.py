"""The training loop, from the first step or a checkpoint to the last epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.loader import EvalLoader, TrainLoader
from engine.device.amp import Precision
from engine.distributed.ranks import Ranks
from engine.evaluation.evaluate import evaluate
from engine.logging.console import with_progress_bar
from engine.logging.run_log import RunLog
from engine.run.errors import RunError
from engine.run.records import suffix
from engine.run.signals import StopRequest, raise_if_signalled
from engine.training.checkpoints import Checkpoints
from engine.training.state import TrainState
from engine.training.step import TrainStep, scale_learning_rate


class Diverged(RunError):
    """Training diverged: the loss or a weight is NaN or inf. The message names the epoch."""

    status = 1


def fit(
    state: TrainState,
    *,
    train: TrainLoader,
    eval_loaders: Mapping[str, EvalLoader],
    train_step: TrainStep,
    max_epochs: int,
    log: RunLog,
    checkpoints: Checkpoints,
    roll_back: bool,
    pruning_callback: Callable[[Sequence[dict[str, Any]]], None],
) -> None:
    """Train the model of `state` until it has completed `max_epochs` epochs; those before an interruption count.

    After each epoch the model and its averaged weights (EMA, SWA) are evaluated on each loader of `eval_loaders`. If
    there is a loader "val", the epoch in which any of them has the highest accuracy on it is the best one.
    The checkpoint "last" is saved after each epoch, when a signal arrives, at the configured interval within an epoch
    and, with `roll_back`, before the first step; "best" after each epoch that is the best so far. If training diverges
    and `roll_back` is true, the last checkpoint is restored and training continues at half the learning rate. Before
    each epoch `pruning_callback` receives the metrics of all completed epochs; it may raise Pruned to stop an
    unpromising Optuna trial.

    Raises Interrupted if a signal was received, and Diverged if training diverges and cannot be rolled back.
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
                record |= evaluations(state, eval_loaders, train_step.precision, ranks)
                require_finite(state, record)
            except Diverged as error:
                if not (roll_back and checkpoints.roll_back(state)):
                    raise Diverged(f"{error}; {checkpoints.describe_last()}") from None
                log.rolled_back(error, step=state.step, rate=state.lr_factor)
                continue
            state.step_schedule(record)
            log.epoch(record | {"seconds": state.seconds}, max_epochs=max_epochs)
            if "val" in eval_loaders and state.is_best(record):
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
    """Train to the end of the current epoch, make the averaged weights ready for evaluation; return its metrics."""
    begun, steps = time.perf_counter(), len(train)
    images_before = state.read_totals().images  # not 0 if the epoch was resumed in the middle
    epoch, first_step = divmod(state.step, steps)
    state.model.train()
    batches = with_progress_bar(
        train.epoch(epoch, first_step), state.read_totals, step=state.step, steps=steps, max_epochs=max_epochs
    )
    for images, targets in batches:
        scale_learning_rate(state.optimizer, state.lr_factor * state.schedule(state.step / steps))
        train_step(state, images, targets)
        for average in state.averages.values():
            average.update(state.model, epoch=state.step / steps)
        # With several ranks, all_reduce_max returns the values of the previous step.
        signal, due = train_step.ranks.all_reduce_max(stop.signal, checkpoints.due(state.step))
        if state.step % steps and (signal or due):  # at the end of an epoch fit() saves
            require_finite(state, epoch_record(state, train), epoch_is_over=False)
            checkpoints.save("last", state)
            raise_if_signalled(signal)
    record = epoch_record(state, train)
    require_finite(state, record)
    record |= {name: norm for name, norm in state.norms().items() if math.isfinite(norm)}  # a gradient may be inf
    totals = state.read_and_reset_totals()
    record["images_per_second"] = (totals.images - images_before) / (time.perf_counter() - begun)
    for average in state.averages.values():
        average.prepare(train.epoch(epoch), train_step.precision)
    return record


def epoch_record(state: TrainState, train: TrainLoader) -> dict[str, float]:
    """Training metrics of the epoch so far, by name.

    With mixup or CutMix the accuracy is measured on the mixed images; the target is the class with the larger weight.
    It is named train_accuracy_mixed, since it cannot be compared with train_accuracy.
    """
    totals = state.read_totals()
    return {
        "epoch": math.ceil(state.step / len(train)),
        "train_loss": totals.loss,
        "train_accuracy_mixed" if train.mixings else "train_accuracy": totals.accuracy,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        **({"skipped_steps": state.skipped} if state.skipped else {}),
    }


def require_finite(state: TrainState, record: dict[str, float], *, epoch_is_over: bool = True) -> None:
    """Raise Diverged if the training or validation loss or a weight is NaN or inf.

    If `epoch_is_over`, also raise it if every batch was skipped because its loss or gradient was not finite.
    """
    totals, epoch, rate = state.read_totals(), f"epoch {record['epoch']}", record["learning_rate"]
    found = None
    if not math.isfinite(record["train_loss"]):
        found = f"the train loss became {record['train_loss']} in step {totals.finite_steps + 1} of {epoch}"
    elif not math.isfinite(record.get("val_loss", 0.0)):
        found = f"the val loss became {record['val_loss']} in {epoch}"
    elif epoch_is_over and state.skipped and not totals.images:
        found = f"no batch of {epoch} had a finite loss and gradient"
    elif not math.isfinite(state.weight_norm()):
        found = f"a weight became NaN or inf in {epoch}"
    if found:
        raise Diverged(f"{found}, learning rate {rate:.2g}")


def evaluations(
    state: TrainState, eval_loaders: dict[str, EvalLoader], precision: Precision, ranks: Ranks
) -> dict[str, float]:
    """Metrics of the network and its averages, with names such as val_loss, or val_accuracy_ema for an average."""
    record = {}
    for split, loader in eval_loaders.items():
        for weights, network in state.networks().items():
            evaluation = evaluate(network, loader, precision=precision, ranks=ranks)
            for metric in ("loss", "accuracy", "top5_accuracy"):
                record[f"{split}_{metric}{suffix(weights)}"] = getattr(evaluation, metric)
    return record
