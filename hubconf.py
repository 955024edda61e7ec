"""Networks for a notebook or another program, by the convention of torch.hub.

    import torch

    network = torch.hub.load("path/to/this/folder", "wrn16_8", source="local", num_classes=100, dropout=0.3)
    trained = torch.hub.load("path/to/this/folder", "load", "outputs/2026-01-31/12-00-00-ab12", source="local")
    trained.classes, trained.mean, trained.std

An entry point is the name of a file in `conf/model/`, or `load`. Where this folder is on `sys.path`,
`hubconf.create("wrn16_8", ...)` and `hubconf.load(...)` do the same.
"""

import sys
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

HERE = Path(__file__).resolve().parent

for package in ("models", "data", "schedulers", "engine"):
    loaded = sys.modules.get(package)
    if loaded and str(HERE / package) not in map(str, getattr(loaded, "__path__", [])):
        raise ImportError(f"{HERE}: its package `{package}` clashes with {loaded!r}, which is imported already")

from engine.inference import load as inference  # noqa: E402 - only where the names are free


def create(name: str, *, num_classes: int, in_channels: int = 3, **settings: Any) -> nn.Module:
    """Return a network with its initial weights: images `[B, in_channels, H, W]` -> logits `[B, num_classes]`.

    Args:
        name: a file of `conf/model/`, without its ending.
        num_classes: number of classes.
        in_channels: channels of the images.
        settings: replace those of the file, or are further arguments of its class, such as `dropout`.

    Raises:
        ValueError: there is no such network (the nearest names are given), or it refuses a setting.
        TypeError: the network does not have a setting.
    """
    return inference.create(name, num_classes=num_classes, in_channels=in_channels, **settings)


def load(path: str | PathLike[str], *, weights: str | None = None) -> nn.Module:
    """Return a trained network on the CPU, in evaluation mode.

    It has as attributes what its user needs: `classes` (their names), `mean` and `std` (per channel, for
    pixels between 0 and 1; images are normalized with them before the network sees them), and `image_shape`,
    (C, H, W) of the training images.

    Args:
        path: a run's directory, a checkpoint, or an exported `.safetensors` file.
        weights: "model" or the name of an average, as in evaluate.py; by default those that the result is of.

    Raises:
        RunError: the file is missing or damaged, or names code that is not this project's.
    """
    return inference.load(path, weights=weights)


def __dir__() -> list[str]:
    """The entry points, as torch.hub lists them."""
    return ["load", *inference.names()]


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """The entry point of a network. Raises AttributeError."""
    if name.startswith("__") or name not in inference.names():
        raise AttributeError(f"{name}: no such network{inference.nearest(name)}")
    entry = partial(create, name)
    entry.__doc__ = f"{name}: see conf/model/{name}.yaml.\n\n{create.__doc__}"
    return entry
