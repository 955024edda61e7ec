"""Checkpoints: files that describe themselves, are never half written, and run no code when read."""

import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.identity import with_moved_targets
from engine.device.memory import is_out_of_memory
from engine.run.console import say
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.training.checkpoint_validation import impossible

FORMAT = 4

# What reading arbitrary bytes as a zip archive or a pickle may raise.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError)

UNREADABLE += (pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)


class CheckpointError(RunError):
    """A checkpoint that cannot be used; the message is one line that names the file and says why."""


def write(path: Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint (tensors and plain values) so that at no moment there is half of one.

    What was at `path` is moved to `keep`, or gone. Raises OSError, and leaves what was there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch has a RuntimeError of its own for a disk that is full
        part.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(*error.args) from error
    if keep and path.exists():
        os.replace(path, keep)
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows; new names are on the disk once their directory is
        directory = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_newest(run: RunDirectory) -> tuple[dict[str, Any], Path]:
    """The newest sound checkpoint of a run, and its file; says so if another one was newer.

    Raises CheckpointError if there is none.
    """
    reasons = []
    for path in (run.last, run.previous):
        try:
            content = read(path)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            if reasons:
                say(f"{reasons[0]}: going on from {path} instead, step {content['state']['step']}")
            return content, path
    raise CheckpointError("; ".join(reasons))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint into main memory.

    Raises CheckpointError for a file that is none, is damaged, or has another format.
    """
    with readable(path):
        if not is_archive(path):
            raise zipfile.BadZipFile("File is not a zip file")
    content = load(path)
    if not is_own(content):
        raise CheckpointError(
            f"{path} is not a checkpoint of this program; weights of others: train.py init_from=... init_only=true"
        )
    return own_content(content, path)


def load(path: Path) -> Any:
    """What torch.save has written to a file, in main memory: tensors and plain values, no code.

    Files of torch before 1.6, which are no archives, are read as well. Raises CheckpointError for a file that is
    something else, or is damaged.
    """
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what it is about to refuse
        if is_archive(path):
            require_whole(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
                whole = f"it holds {code[1]}, which would be run as code; of a network its state_dict() is wanted"
                raise CheckpointError(f"{path} is not a checkpoint: {whole}") from None
            raise


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within, whatever arbitrary bytes at `path` may raise is a CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:100]
        raise CheckpointError(f"{path} is not a checkpoint{reason and f': {reason}'}") from None


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does: torch.load reads what does not as a file of old."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def require_whole(path: Path) -> None:
    """Raise CheckpointError for an archive that is damaged, or compressed, which torch.save writes none.

    It has a checksum for each of its members, which torch.load ignores.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise CheckpointError(f"{path} is not a checkpoint: it is compressed, and might unpack to anything")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path} is damaged: {damaged} has another checksum than it had")


def is_own(content: Any) -> bool:
    """Whether what a file holds is a checkpoint of this program, of whatever format."""
    return isinstance(content, dict) and "format" in content


def own_content(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint of this program, with the weights by the network's own names.

    Raises CheckpointError, also for one that says of itself what cannot be.
    """
    with described():
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} has checkpoint format {content['format']}, this program reads {FORMAT}")
        for said in (content, content["state"]):
            require_possible(said, path)
        if "config" in content:
            content["config"] = with_moved_targets(content["config"])
        if "model" in content["state"]:
            content["state"]["model"] = without_wrappers(content["state"]["model"])
    return content


def require_possible(said: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if a file says of itself what cannot be."""
    if claim := impossible(said):
        raise CheckpointError(f"{path} says {claim}")


@contextmanager
def described() -> Iterator[None]:
    """Within, a checkpoint that does not hold what it should raises CheckpointError, whatever comes of it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise CheckpointError(f"the checkpoint does not describe what it holds: {reason}") from error


def without_wrappers(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights by the network's own names, where torch's DataParallel or compiler had wrapped it."""
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            return without_wrappers({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def chosen_weights(checkpoint: dict[str, Any], name: str | None) -> tuple[str, dict[str, Tensor]]:
    """The weights of a checkpoint by name, or for None those that count, with their name. Raises CheckpointError."""
    state = checkpoint["state"]
    kept = weights_by_name(state)
    if name is None:
        name = result_weights(state, epoch=state["step"] / checkpoint["steps_per_epoch"])
    if name not in kept:
        raise CheckpointError(f"weights={name}: the checkpoint has {' and '.join(kept)}")
    return name, kept[name]


def weights_by_name(state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The weights that a checkpoint's state holds: "model", and by its name each average that had begun."""
    begun = {name: average["model"] for name, average in state["averages"].items() if average["model"]}
    return {"model": state["model"], **begun}


def result_weights(state: dict[str, Any], *, epoch: float) -> str:
    """The name of the weights that count in a checkpoint's state that was taken after `epoch` epochs.

    In the best epoch in validation those that did best; without validation the last average that
    has begun, if there is one; else the network's own.
    """
    if state["best_epoch"]:
        return state["best_weights"] if state["best_epoch"] == epoch else "model"
    return list(weights_by_name(state))[-1]
