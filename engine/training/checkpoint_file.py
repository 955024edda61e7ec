"""Checkpoint files: self-describing, written atomically, read without running code."""

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

from engine.config.renamed import with_current_names
from engine.device.memory import is_out_of_memory
from engine.run.console import logger
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.training.checkpoint_validation import invalid_field

FORMAT = 4

# Exceptions that reading arbitrary bytes as a zip archive or a pickle may raise.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError)

UNREADABLE += (pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)


class CheckpointError(RunError):
    """The checkpoint cannot be used; the message is one line that names the file and the reason."""


def write(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write a checkpoint (tensors and plain values) atomically.

    An existing file at `path` is moved to `previous`, or replaced. Raises OSError, and then leaves it unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        part.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(*error.args) from error
    if previous and path.exists():
        os.replace(path, previous)
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows; a rename is durable once its directory is flushed
        directory = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_newest(run: RunDirectory) -> tuple[dict[str, Any], Path]:
    """The newest intact checkpoint of a run, and its file; prints a line if a newer one is damaged.

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
                logger.info(f"{reasons[0]}: resuming from {path} instead, step {content['state']['step']}")
            return content, path
    raise CheckpointError("; ".join(reasons))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint into main memory.

    Raises CheckpointError if the file is not a checkpoint, is damaged, or has another format.
    """
    with readable(path):
        if not is_archive(path):
            raise zipfile.BadZipFile("File is not a zip file")
    content = load(path)
    if not is_project_checkpoint(content):
        raise CheckpointError(
            f"{path} is not a checkpoint of this program; import other weights: train.py init_from=... init_only=true"
        )
    return validated_checkpoint(content, path)


def load(path: Path) -> Any:
    """Load a file of torch.save into main memory: tensors and plain values, no code.

    Files of torch before 1.6, which are not zip archives, are read as well. Raises CheckpointError for any other file,
    or if it is damaged.
    """
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns before it raises
        if is_archive(path):
            require_intact(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
                reason = f"it contains {code[1]}, which would run as code; save the network's state_dict() instead"
                raise CheckpointError(f"{path} is not a checkpoint: {reason}") from None
            raise


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading arbitrary bytes at `path` into CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:100]
        raise CheckpointError(f"{path} is not a checkpoint{reason and f': {reason}'}") from None


def is_archive(path: Path) -> bool:
    """Whether a file starts like a zip archive; torch.load reads any other as the legacy format."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def require_intact(path: Path) -> None:
    """Raise CheckpointError if an archive is damaged, or compressed, which torch.save never does.

    The checksums of its members are verified, which torch.load does not do.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise CheckpointError(f"{path} is not a checkpoint: it is compressed, and could unpack to any size")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path} is damaged: wrong checksum of {damaged}")


def is_project_checkpoint(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of this program, of any format version."""
    return isinstance(content, dict) and "format" in content


def validated_checkpoint(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint of this program, validated, with wrapper prefixes removed from the names of the weights.

    Raises CheckpointError, also for invalid values.
    """
    with checkpoint_errors():
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} has checkpoint format {content['format']}, this program reads {FORMAT}")
        for said in (content, content["state"]):
            require_valid(said, path)
        if "config" in content:
            content["config"] = with_current_names(content["config"])
        if "model" in content["state"]:
            content["state"]["model"] = without_wrappers(content["state"]["model"])
    return content


def require_valid(said: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if a field of the file is invalid."""
    if problem := invalid_field(said):
        raise CheckpointError(f"{path} says {problem}")


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Turn errors of a checkpoint with missing or wrong content into CheckpointError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise CheckpointError(f"the checkpoint does not describe what it holds: {reason}") from error


def without_wrappers(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights without the name prefixes of DataParallel and torch.compile."""
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            return without_wrappers({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def chosen_weights(checkpoint: dict[str, Any], name: str | None) -> tuple[str, dict[str, Tensor]]:
    """(name, weights) of a checkpoint; for None those that are its result. Raises CheckpointError."""
    state = checkpoint["state"]
    kept = weights_by_name(state)
    if name is None:
        name = result_weights(state, epoch=state["step"] / checkpoint["steps_per_epoch"])
    if name not in kept:
        raise CheckpointError(f"weights={name}: the checkpoint has {' and '.join(kept)}")
    return name, kept[name]


def weights_by_name(state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The weights in a checkpoint's state: "model", and each average that has started, by name."""
    begun = {name: average["model"] for name, average in state["averages"].items() if average["model"]}
    return {"model": state["model"], **begun}


def result_weights(state: dict[str, Any], *, epoch: float) -> str:
    """The name of the weights that are the result of a checkpoint taken after `epoch` epochs.

    With validation, the best weights if this is the best epoch, else "model"; without, the last average that has
    started, or "model" if there is none.
    """
    if state["best_epoch"]:
        return state["best_weights"] if state["best_epoch"] == epoch else "model"
    return list(weights_by_name(state))[-1]
