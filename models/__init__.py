"""Convolutional networks in the form in which their papers, or the field, use them on 32x32 images.

One family a file. A network is a plain `torch.nn.Module` whose constructor takes `num_classes` and
`in_channels` besides the numbers of its paper, and whose `forward` maps images `[B, C, H, W]` to
logits `[B, K]`. The variants with names are the files of `conf/model/`.

Where initial weights come from the data, a method `prepare` is given some normalised training images
`[N, C, H, W]`, on the network's device, before training begins.

In a notebook, with the project's folder on `sys.path`:

    import models

    network = models.create("wrn16_8", num_classes=100, dropout=0.3)
    trained = models.load("outputs/2026-01-31/12-00-00-ab12")
    trained.classes, trained.mean, trained.std
"""

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def create(name: str, *, num_classes: int, in_channels: int = 3, **settings: Any) -> "nn.Module":
    """A network with its initial weights, by the name of its file in `conf/model/`.

    `settings` replace those of the file, or are further arguments of its class, such as `dropout` and `drop_path`.
    Raises ValueError, which says the nearest names, for a name that there is not, and for a setting that the network
    refuses; TypeError for a setting that it does not have.
    """
    from engine import notebook

    return notebook.create(name, num_classes=num_classes, in_channels=in_channels, **settings)


def load(path: str | PathLike[str], *, weights: str | None = None) -> "nn.Module":
    """A trained network on the CPU, in evaluation mode: of a run's directory, a checkpoint or an export `.safetensors`.

    It has, besides what any network has, `classes` (their names), `mean` and `std` (of each channel, on the scale from
    0 to 1), with which images are normalised before it sees them, and `image_shape`, (C, H, W) of those that it was
    trained on. `weights` are as in evaluate.py: "model", or the name of an average; None: those that count.
    Raises RunError, in one line, for a file that is missing, damaged, or asks for code that is not this project's.
    """
    from engine import notebook

    return notebook.load(path, weights=weights)
