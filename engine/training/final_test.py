"""The test metrics of a run, at its end: the only time that the test images are used."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from data.loader import EvalLoader
from engine.device.amp import Precision
from engine.distributed.ranks import Ranks
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.evaluation.tta import Views
from engine.run.records import suffix
from engine.training.checkpoint_file import weights_by_name
from engine.training.checkpoints import Checkpoints
from engine.training.state import TrainState


def final_test(
    state: TrainState,
    test: EvalLoader,
    *,
    checkpoints: Checkpoints,
    steps_per_epoch: int,
    precision: Precision,
    views: Views,
    ranks: Ranks,
) -> tuple[dict[str, Any], Evaluation]:
    """Test metrics of the last and the best epoch, and the evaluation that is the run's result, over all ranks' images.

    The result is of the epoch and weights (the network's or an average's) with the highest validation accuracy;
    without validation images, of the last epoch, with the last average if there is one.
    """
    tested = partial(evaluate, batches=test, precision=precision, views=views, ranks=ranks)
    last = {name: tested(network) for name, network in state.networks().items()}
    weights = list(last)[-1]
    epoch, chosen = state.step // steps_per_epoch, last[weights]
    if best := checkpoints.read_best(state):
        epoch, weights = best["best_epoch"], best["best_weights"]
        state.model.load_state_dict(weights_by_name(best)[weights])
        chosen = tested(state.model)
    chosen = replace(
        chosen,
        predicted=torch.cat(ranks.all_gather(chosen.predicted)),
        confidence=torch.cat(ranks.all_gather(chosen.confidence)),
    )
    figures = {
        "chosen_epoch": epoch,
        "chosen_weights": weights,
        "test_loss": chosen.loss,
        "test_accuracy": chosen.accuracy,
        "test_top5_accuracy": chosen.top5_accuracy,
        "test_accuracy_best": chosen.accuracy if best else None,
        **{f"test_accuracy_last{suffix(name)}": one.accuracy for name, one in last.items()},
    }
    return figures, chosen
