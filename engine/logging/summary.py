"""What a run says of itself at its beginning and at its end."""

from typing import Any

from engine.run.console import logger, percent
from engine.run.directory import RunDirectory
from engine.run.errors import NotSaved
from engine.run.process import is_main_process


def conclude(figures: dict[str, Any], run: RunDirectory, expected: dict[str, Any] | None) -> None:
    """Say how it went and, if a recipe says so, what was expected; where the run is, and how to look at its curves."""
    whose = "" if figures["chosen_weights"] == "model" else f"{figures['chosen_weights']} "
    by_epoch = f"{whose}of epoch {figures['chosen_epoch']}"
    by_epoch += ", the best in validation" if figures["test_accuracy_best"] is not None else ""
    logger.info(f"test accuracy {percent(figures['test_accuracy'])} ({by_epoch})")
    last = {
        name.removeprefix("test_accuracy_last").lstrip("_"): value for name, value in figures.items() if "_last" in name
    }
    if len(last) > 1 or figures["test_accuracy_best"] is not None:
        logger.info(
            f"last epoch: {', '.join(f'{weights} {percent(value)}'.lstrip() for weights, value in last.items())}"
        )
    if expected and expected["changed"]:
        logger.info(f"no comparison with the recipe, which has another {', '.join(expected['changed'])}")
    elif expected:
        goal = f"{expected['test_accuracy']:.2f} +- {expected['tolerance']:.2f} %"
        logger.info(
            f"expected {goal}, got {percent(figures['test_accuracy'])} ({expected['source']}: {expected['result']})"
        )
    logger.info(f"run: {run}")
    if run.tensorboard.is_dir():
        logger.info(f"curves: tensorboard --logdir {run.root}")


def require_kept(run: RunDirectory) -> None:
    """Raise NotSaved where the result that has been said could not be written."""
    if is_main_process() and run.status != "finished":
        raise NotSaved(f"{run.result.name} of {run} could not be written: the result above is kept nowhere else")
