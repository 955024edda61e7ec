"""Checkpoints: files that describe themselves, are never half written, and run no code when read."""

import os
import pickle
import re
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.claims import impossible
from engine.distributed import ALONE, Ranks
from engine.errors import RunError
from engine.logging import say
from engine.memory import is_out_of_memory
from engine.rundir import RunDirectory
from engine.runtime import random_states, restore_random_states
from engine.settings import difference
from engine.state import TrainState, result_weights, weights_by_name

FORMAT = 4
SLOWEST = 1 / 1024  # a run that diverges at so small a share of its learning rate is given up

# What reading arbitrary bytes as a zip archive or a pickle may raise.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError)
UNREADABLE += (pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)


class CheckpointError(RunError):
    """A checkpoint that cannot be used; the message is one line that names the file and says why."""


class NotSaved(RunError):
    """What a program came to could not be written; the message is one line that says so."""

    status = 1


class Checkpoints:
    """The checkpoints of one run: "last", the one before it, and "best".

    `description` is what a reader needs besides the state: the configuration as plain data, class
    names, normalisation and so on. It is written into every checkpoint. Within an epoch there is one
    every `minutes` or every so many `steps`; 0 for none.
    """

    def __init__(
        self,
        run: RunDirectory,
        description: dict[str, Any],
        *,
        minutes: float = 0,
        steps: int = 0,
        ranks: Ranks = ALONE,
    ):
        self.run = run
        self.files = {"last": run.last, "best": run.best}
        self.description = description
        self.minutes, self.steps = minutes, steps
        self.ranks = ranks
        self.saved_at = time.monotonic()
        self.is_saved = True

    def __str__(self) -> str:
        """What there is to go on from."""
        try:
            content, path = read_newest(self.run)
        except CheckpointError:
            return "there is no checkpoint yet"
        epoch = content["state"]["step"] / content["steps_per_epoch"]
        return f"the last checkpoint, {path}, is of epoch {epoch:g}"

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after `step` steps."""
        minutes = (time.monotonic() - self.saved_at) / 60
        return bool((self.steps and step % self.steps == 0) or (self.minutes and minutes >= self.minutes))

    def save(self, name: str, state: TrainState) -> None:
        """Keep the state under a name. Where that cannot be, say so: what was kept before stays, and training goes on.

        `is_saved` tells whether it could.
        """
        content = {**self.description, "state": state.state_dict()}
        if self.ranks.size > 1:
            content["random_of_ranks"] = self.ranks.gathered(content["state"]["random"])
        self.is_saved = self.ranks.of_first(partial(self.try_to_write, name, content))
        self.saved_at = time.monotonic()

    def try_to_write(self, name: str, content: dict[str, Any]) -> bool:
        """Write a checkpoint under a name; False, which is said, if that cannot be."""
        path = self.files[name]
        try:
            self.run.provide()
            write(path, content, keep=self.run.previous if name == "last" else None)
        except OSError as error:
            say(f"{path} could not be written ({error.strerror or error}): what is there is older")
            return False
        return True

    def require_saved(self) -> None:
        """Raise NotSaved if the last state could not be kept."""
        if not self.is_saved:
            raise NotSaved(f"{self.run}: the last epoch could not be written")

    def read_best(self, state: TrainState) -> dict[str, Any] | None:
        """The state of the best epoch in validation; None if none was chosen, or, which is said, if it is lost.

        Where the best could not be written it is that of an earlier epoch, which is said as well.
        """
        if not state.best_epoch:
            return None
        best = self.ranks.of_first(self.try_to_read_best)
        if best is None:
            return None
        if best["best_epoch"] != state.best_epoch:
            say(f"{self.run.best} is of epoch {best['best_epoch']}: the best, {state.best_epoch}, could not be written")
        return best

    def try_to_read_best(self) -> dict[str, Any] | None:
        """The state in the best checkpoint; None, which is said, if it is lost."""
        try:
            return read(self.run.best)["state"]
        except CheckpointError as error:
            say(f"{error}: the last epoch counts in its place")
            return None

    def roll_back(self, state: TrainState) -> bool:
        """Put `state` back to the last checkpoint, with half its learning rate; False if there is no use in that."""
        rate, seconds = state.rate / 2, state.seconds
        if rate < SLOWEST:
            return False
        content, _ = self.ranks.of_first(partial(read_newest, self.run))
        self.put_back(state, content)
        state.rate = rate
        state.start_clock(seconds)
        return True

    def resume(self, content: dict[str, Any], state: TrainState, *, force: bool) -> None:
        """Put `state` back to where a checkpoint was taken, given its content.

        Raises CheckpointError if the configuration has changed in a way that alters the result,
        unless `force` is given; and in any case if the network or the optimizer is another one, if there is a
        new average, if an epoch has another number of steps than it had, or if the run has come
        further than it now shall.
        """
        changed = difference(content["config"], self.description["config"], may_move=True)
        if changed and not force:
            raise CheckpointError(f"{changed}: leave it as it was, or add resume_force=true")
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
        self.put_back(state, content)

    def put_back(self, state: TrainState, content: dict[str, Any]) -> None:
        """Let `state` be what a checkpoint holds; a rank goes on with masks of its own.

        Where the checkpoint is of another number of ranks, and knows nothing of this one's, they go on as they are.
        """
        own, saved = random_states(), content.get("random_of_ranks", [])
        state.load_state_dict(content["state"])
        if not self.ranks.leads:
            restore_random_states(saved[self.ranks.rank] if len(saved) == self.ranks.size else own)


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


def require_same_weights(saved: dict[str, Any], state: TrainState) -> None:
    """Raise CheckpointError if a checkpoint has other weights than `state`, or lacks one of its averages."""
    weights = state.model.state_dict()
    for name in sorted(weights.keys() | saved["model"].keys()):
        before, now = (list(some[name].shape) if name in some else None for some in (saved["model"], weights))
        if before != now:
            raise CheckpointError(f"{name} of this run's network has the shape {before}, with these settings {now}")
    for name in state.averages.keys() - saved["averages"].keys():
        raise CheckpointError(f"this run has no {name} so far: no way to begin with it now")
