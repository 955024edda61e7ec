"""Checkpoints: files that describe themselves, are never half written, and run no code when read."""

import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engine.rundir import RunDirectory
from engine.state import TrainState

FORMAT = 4

# Settings that do not alter what a run computes, and so may differ when it is resumed.
FREE = (
    "resume",
    "resume_force",
    "lr_find",
    "trainer.device",
    "trainer.eval_batch_size",
    "dataset.root",
    "dataset.mirrors",
)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line that names the file and says why."""


class Checkpoints:
    """The checkpoints of one run: "last" and "best".

    `description` is what a reader needs besides the state: the configuration as plain data, class
    names, normalisation and so on. It is written into every checkpoint.
    """

    def __init__(self, run: RunDirectory, description: dict[str, Any]):
        self.files = {"last": run.last, "best": run.best}
        self.description = description

    def save(self, name: str, state: TrainState) -> None:
        """Keep the state under a name."""
        write(self.files[name], {**self.description, "state": state.state_dict()})

    def resume(self, content: dict[str, Any], state: TrainState, *, force: bool) -> None:
        """Put `state` back to where a checkpoint was taken, given its content.

        Raises CheckpointError if the configuration has changed in a way that alters the result,
        unless `force` is given; and in any case if the network or the optimizer is another one, if there is a
        new average, if an epoch has another number of steps than it had, or if the run has come
        further than it now shall.
        """
        if not force:
            require_same_settings(content["config"], self.description["config"])
        for group, part in (("model", "network"), ("optimizer", "optimizer")):
            had, has = (config[group]["_target_"] for config in (content["config"], self.description["config"]))
            if had != has:
                raise CheckpointError(f"this run's {part} was {had}: no way to go on with {has}")
        require_same_weights(content["state"], state)
        before, now = content["steps_per_epoch"], self.description["steps_per_epoch"]
        if before != now:
            raise CheckpointError(
                f"an epoch of this run has {before} steps, with these settings {now}: no way to go on"
            )
        max_epochs, done = self.description["config"]["trainer"]["max_epochs"], content["state"]["step"] / now
        if done > max_epochs:
            raise CheckpointError(f"trainer.max_epochs={max_epochs}: this run has come to epoch {done:g} already")
        state.load_state_dict(content["state"])


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint (tensors and plain values) so that `path` holds the old one or the new, never part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint into main memory. Raises CheckpointError for a file that is none, or of another format."""
    if not zipfile.is_zipfile(path):  # what torch.save writes is a zip archive
        raise CheckpointError(f"{path} is not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} is not a checkpoint of this program")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {content['format']}, this program reads {FORMAT}")
    return content


def require_same_weights(saved: dict[str, Any], state: TrainState) -> None:
    """Raise CheckpointError if a checkpoint has other weights than `state`, or lacks one of its averages."""
    weights = state.model.state_dict()
    for name in sorted(weights.keys() | saved["model"].keys()):
        before, now = (list(some[name].shape) if name in some else None for some in (saved["model"], weights))
        if before != now:
            raise CheckpointError(f"{name} of this run's network has the shape {before}, with these settings {now}")
    for name in state.averages.keys() - saved["averages"].keys():
        raise CheckpointError(f"this run has no {name} so far: no way to begin with it now")


def require_same_settings(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise CheckpointError that names the first setting, apart from `FREE`, in which two configurations differ."""
    before, after = dict(leaves(saved)), dict(leaves(now))
    for name in sorted(before.keys() | after.keys()):
        if name not in FREE and not name.startswith("expected.") and before.get(name) != after.get(name):
            raise CheckpointError(
                f"{name} was {before.get(name)} in this run so far and is {after.get(name)} now: leave it as it was, "
                "or add resume_force=true"
            )


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
