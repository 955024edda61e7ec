"""The checkpoints of a run: "last", the one before it, and "best"."""

import time
from functools import partial
from typing import Any

from engine.config.identity import difference
from engine.device.seeds import random_states, restore_random_states
from engine.distributed.ranks import ALONE, Ranks
from engine.run.console import logger
from engine.run.directory import RunDirectory
from engine.run.errors import NotSaved
from engine.training.checkpoint_file import CheckpointError, read, read_newest, write
from engine.training.state import TrainState

SLOWEST = 1 / 1024  # a run that still diverges at this fraction of its learning rate is stopped


class Checkpoints:
    """The checkpoints of one run: "last", the one before it, and "best".

    `description` is what a reader needs besides the state: the configuration as plain data, class
    names, normalisation and so on. It is written into every checkpoint. Within an epoch, a checkpoint is
    saved every `minutes` or every `steps` steps; 0 for never.
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

    def describe_last(self) -> str:
        """The checkpoint to resume from, in words."""
        try:
            content, path = read_newest(self.run)
        except CheckpointError:
            return "there is no checkpoint yet"
        epoch = content["state"]["step"] / content["steps_per_epoch"]
        return f"the last checkpoint, {path}, is of epoch {epoch:g}"

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        minutes = (time.monotonic() - self.saved_at) / 60
        return bool((self.steps and step % self.steps == 0) or (self.minutes and minutes >= self.minutes))

    def save(self, name: str, state: TrainState) -> None:
        """Save the state under a name. On failure print a message, keep the older file and continue training.

        `is_saved` tells whether it succeeded.
        """
        content = {**self.description, "state": state.state_dict()}
        if self.ranks.size > 1:
            content["random_of_ranks"] = self.ranks.all_gather(content["state"]["random"])
        self.is_saved = self.ranks.broadcast_from_main(partial(self.try_to_write, name, content))
        self.saved_at = time.monotonic()

    def try_to_write(self, name: str, content: dict[str, Any]) -> bool:
        """Write a checkpoint under a name; on failure print a message and return False."""
        path = self.files[name]
        try:
            self.run.recreate()
            write(path, content, previous=self.run.previous if name == "last" else None)
        except OSError as error:
            logger.info(f"{path} could not be written ({error.strerror or error}); the file there is older")
            return False
        return True

    def require_saved(self) -> None:
        """Raise NotSaved if the last checkpoint could not be written."""
        if not self.is_saved:
            raise NotSaved(f"{self.run}: the last checkpoint could not be written")

    def read_best(self, state: TrainState) -> dict[str, Any] | None:
        """The state of the best epoch in validation; None if there is none, or if it cannot be read.

        If the best could not be written, the file is of an earlier epoch. Prints a message in both cases.
        """
        if not state.best_epoch:
            return None
        best = self.ranks.broadcast_from_main(self.try_to_read_best)
        if best is None:
            return None
        if best["best_epoch"] != state.best_epoch:
            logger.info(
                f"{self.run.best} is of epoch {best['best_epoch']}: the best, {state.best_epoch}, could not be written"
            )
        return best

    def try_to_read_best(self) -> dict[str, Any] | None:
        """The state in the best checkpoint; None, with a message, if it cannot be read."""
        try:
            return read(self.run.best)["state"]
        except CheckpointError as error:
            logger.info(f"{error}: the last epoch is tested instead")
            return None

    def roll_back(self, state: TrainState) -> bool:
        """Restore `state` from the last checkpoint with half its learning rate; False if the rate is too small."""
        rate, seconds = state.lr_factor / 2, state.seconds
        if rate < SLOWEST:
            return False
        content, _ = self.ranks.broadcast_from_main(partial(read_newest, self.run))
        self.restore(state, content)
        state.lr_factor = rate
        state.start_clock(seconds)
        return True

    def resume(self, content: dict[str, Any], state: TrainState, *, force: bool) -> None:
        """Restore `state` from the content of a checkpoint.

        Raises CheckpointError if the configuration has changed in a way that alters the result, unless `force` is
        given; and always if the network, the optimizer or the steps per epoch have changed, if an average was added,
        or if the run is already past `max_epochs`.
        """
        changed = difference(content["config"], self.description["config"], may_move=True)
        if changed and not force:
            raise CheckpointError(f"{changed}: leave it as it was, or add resume_force=true")
        for group, part in (("model", "network"), ("optimizer", "optimizer")):
            had, has = (config[group]["_target_"] for config in (content["config"], self.description["config"]))
            if had != has:
                raise CheckpointError(f"this run's {part} was {had}: it cannot be resumed with {has}")
        require_same_weights(content["state"], state)
        before, now = content["steps_per_epoch"], self.description["steps_per_epoch"]
        if before != now:
            raise CheckpointError(
                f"an epoch of this run has {before} steps, with these settings {now}: it cannot be resumed"
            )
        max_epochs, done = self.description["config"]["trainer"]["max_epochs"], content["state"]["step"] / now
        if done > max_epochs:
            raise CheckpointError(f"trainer.max_epochs={max_epochs}: this run is already at epoch {done:g}")
        self.restore(state, content)

    def restore(self, state: TrainState, content: dict[str, Any]) -> None:
        """Load a checkpoint's content into `state`; each rank restores its own random states.

        If the checkpoint is of another number of ranks, the other ranks keep their current random states.
        """
        own, saved = random_states(), content.get("random_of_ranks", [])
        state.load_state_dict(content["state"])
        if not self.ranks.is_main_process:
            restore_random_states(saved[self.ranks.rank] if len(saved) == self.ranks.size else own)


def require_same_weights(saved: dict[str, Any], state: TrainState) -> None:
    """Raise CheckpointError if a checkpoint has other weights than `state`, or lacks one of its averages."""
    weights = state.model.state_dict()
    for name in sorted(weights.keys() | saved["model"].keys()):
        before, now = (list(some[name].shape) if name in some else None for some in (saved["model"], weights))
        if before != now:
            raise CheckpointError(f"{name} of this run's network has the shape {before}, with these settings {now}")
    for name in state.averages.keys() - saved["averages"].keys():
        raise CheckpointError(f"this run has no {name} so far: it cannot be added on resume")


def save_initial(state: TrainState, checkpoints: Checkpoints) -> None:
    """Save the initial state as the run's checkpoint, and print where. Raises NotSaved."""
    checkpoints.save("last", state)
    if not checkpoints.is_saved:
        raise NotSaved(f"{checkpoints.run}: the weights could not be written")
    logger.info(f"written to {checkpoints.run}/checkpoints/{checkpoints.run.last.name}, which evaluate.py reads")
