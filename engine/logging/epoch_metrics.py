"""What is recorded of each epoch: one list of names, and how each is shown."""

import re
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of an epoch: its name in metrics.jsonl, and its tag in TensorBoard; None: it has no curve.

    One `of_split` stands in metrics.jsonl once a split of the images and, after training images, once a set of
    weights: train_loss, val_accuracy, val_accuracy_ema. Its tag names both in place of `{}`.
    """

    name: str
    tag: str | None
    of_split: bool = False


# A new figure of each epoch is one entry here and the line that computes it.
FIGURES = (
    Figure("epoch", None),
    Figure("seconds", None),
    Figure("loss", "loss/{}", of_split=True),
    Figure("accuracy", "accuracy/{}", of_split=True),
    Figure("top5_accuracy", "accuracy/{}", of_split=True),
    Figure("learning_rate", "learning rate"),
    Figure("images_per_second", "speed/images per second"),
    Figure("skipped_steps", "skipped steps"),
    Figure("weight_norm", "norm/weights"),
    Figure("gradient_norm", "norm/gradient of the last step"),
)
SPLITS = ("clean_train", "train", "val")
# Shown with the choices of a run.
FINAL = ("test_accuracy", "val_accuracy", "train_accuracy", "test_loss", "val_loss", "train_loss")

_OF_SPLIT = {figure.name: figure for figure in FIGURES if figure.of_split}
_OTHERS = {figure.name: figure for figure in FIGURES if not figure.of_split}
_NAMES = re.compile(rf"({'|'.join(SPLITS)})_({'|'.join(sorted(_OF_SPLIT, reverse=True))})(?:_(\w+))?")


def tag(name: str) -> str | None:
    """TensorBoard's tag of a figure by its name in metrics.jsonl; None if it has no curve.

    val_top5_accuracy_ema is "accuracy/val top-5 ema". Raises LookupError for a name that is not in the list.
    """
    if name in _OTHERS:
        return _OTHERS[name].tag
    if not (match := _NAMES.fullmatch(name)):
        raise LookupError(f"{name} is no figure of an epoch: it needs an entry in engine/logging/epoch_metrics.py")
    split, quantity, weights = match.groups()
    words = [split.replace("_", " "), *(["top-5"] if "top5" in quantity else []), *([weights] if weights else [])]
    return _OF_SPLIT[quantity].tag.format(" ".join(words))


def is_of_split(name: str) -> bool:
    """Whether a name is a loss or an accuracy on some images."""
    return _NAMES.fullmatch(name) is not None
