"""What a run says of itself at its beginning and at its end."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from engine.build import Parts
from engine.checkpoint import NotSaved
from engine.counts import count_multiply_adds
from engine.evaluate import Evaluation, evaluate
from engine.logging import percent, say
from engine.machine import describe_device
from engine.rank import leads
from engine.rundir import RunDirectory
from engine.runtime import git_revision, versions
from engine.state import suffix, weights_by_name


def introduce(choices: dict[str, Any], seed: int, parts: Parts) -> dict[str, Any]:
    """Say what is about to be trained, on what and where; what is known of the run, as plain data.

    `choices` are the options chosen of each group.
    """
    splits, machine, speeds = parts.splits, parts.machine, parts.speeds
    model, optimizer = parts.state.model, parts.state.optimizer
    facts = {
        **choices,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count_multiply_adds(model, splits.train.images.shape[1:]),
        "train_images": len(splits.train),
        "val_images": len(splits.val),
        "test_images": len(splits.test),
        "classes": len(splits.classes),
        "batch_size": parts.loaders.train.batch_size,
        "lr": optimizer.defaults["lr"],
        "effective_lr": optimizer.param_groups[0]["initial_lr"],
        "seed": seed,
        "device": describe_device(machine.device),
        "processes": parts.ranks.size,
        "precision": machine.precision.name,
        "memory_format": machine.memory_format_name,
        "tried_images_per_second": {str(way): round(speed, 1) for way, speed in speeds.items()},
        "versions": versions(),
        "git_revision": git_revision(),
    }
    say(f"{facts['model']}: {facts['params']:,} parameters, {facts['multiply_adds'] / 1e6:,.1f} M multiply-adds")
    say(
        f"{facts['dataset']}: {facts['train_images']:,} images to train on, {facts['val_images']:,} to validate, "
        f"{facts['test_images']:,} to test, {facts['classes']} classes"
    )
    if facts["effective_lr"] != facts["lr"]:
        say(f"learning rate {facts['effective_lr']:.4g}: optimizer.lr={facts['lr']:g}, scaled with the batch")
    versions_and_batch = f"torch {facts['versions']['torch']}, batches of {facts['batch_size']:,}"
    where = f"{facts['device']} in {parts.ranks.size} processes" if parts.ranks.size > 1 else facts["device"]
    say(f"{where}, {machine}, {versions_and_batch}, seed {seed}")
    if speeds:
        others = ", ".join(f"{way} {speed:,.0f}" for way, speed in speeds.items() if way != machine)
        say(f"{machine} was chosen for {speeds[machine]:,.0f} images/s forward and backward; {others}")
    return facts


def what_computes(facts: dict[str, Any]) -> str:
    """What needs memory, in words."""
    return (
        f"batches of {facts['batch_size']} images, model={facts['model']}, {facts['precision']}, on {facts['device']}"
    )


def final_test(parts: Parts) -> tuple[dict[str, Any], Evaluation]:
    """The test figures of the last epoch and of the best, the only time that the test images are looked at.

    The result, which also comes in full and of all ranks' images, is that of the epoch and the weights (the network's
    or an average) that did best on the validation images; without any that of the last epoch, and of the last average
    if there is one.
    """
    state = parts.state
    tested = partial(
        evaluate, batches=parts.loaders.test, precision=parts.machine.precision, views=parts.views, ranks=parts.ranks
    )
    last = {name: tested(network) for name, network in state.networks().items()}
    weights = list(last)[-1]
    epoch, chosen = state.step // len(parts.loaders.train), last[weights]
    if best := parts.checkpoints.read_best(state):
        epoch, weights = best["best_epoch"], best["best_weights"]
        state.model.load_state_dict(weights_by_name(best)[weights])
        chosen = tested(state.model)
    chosen = replace(
        chosen,
        predicted=torch.cat(parts.ranks.gathered(chosen.predicted)),
        confidence=torch.cat(parts.ranks.gathered(chosen.confidence)),
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


def conclude(figures: dict[str, Any], run: RunDirectory, expected: dict[str, Any] | None) -> None:
    """Say how it went and, if a recipe says so, what was expected; where the run is, and how to look at its curves."""
    whose = "" if figures["chosen_weights"] == "model" else f"{figures['chosen_weights']} "
    by_epoch = f"{whose}of epoch {figures['chosen_epoch']}"
    by_epoch += ", the best in validation" if figures["test_accuracy_best"] is not None else ""
    say(f"test accuracy {percent(figures['test_accuracy'])} ({by_epoch})")
    last = {
        name.removeprefix("test_accuracy_last").lstrip("_"): value for name, value in figures.items() if "_last" in name
    }
    if len(last) > 1 or figures["test_accuracy_best"] is not None:
        say(f"last epoch: {', '.join(f'{weights} {percent(value)}'.lstrip() for weights, value in last.items())}")
    if expected and expected["changed"]:
        say(f"no comparison with the recipe, which has another {', '.join(expected['changed'])}")
    elif expected:
        goal = f"{expected['test_accuracy']:.2f} +- {expected['tolerance']:.2f} %"
        say(f"expected {goal}, got {percent(figures['test_accuracy'])} ({expected['source']}: {expected['result']})")
    say(f"run: {run}")
    say(f"curves: tensorboard --logdir {run.root}")


def require_kept(run: RunDirectory) -> None:
    """Raise NotSaved where the result that has been said could not be written."""
    if leads() and run.status != "finished":
        raise NotSaved(f"{run.result.name} of {run} could not be written: the result above is kept nowhere else")
