"""The checkpoints of a run: best, last and those of chosen epochs, written in the background."""

import time
from functools import partial
from typing import Any

from engine.config.identity import difference
from engine.device.seeds import random_states, restore_random_states
from engine.distributed.ranks import ALONE, Ranks
from engine.run.console import say
from engine.run.directory import RunDirectory
from engine.run.errors import NotSaved
from engine.training.checkpoint_file import CheckpointError, read, read_newest, write
from engine.training.state import TrainState

SLOWEST = 1 / 1024  # a run that diverges at so small a share of its learning rate is given up


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
            content["random_of_ranks"] = self.ranks.all_gather(content["state"]["random"])
        self.is_saved = self.ranks.broadcast_from_main(partial(self.try_to_write, name, content))
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
        best = self.ranks.broadcast_from_main(self.try_to_read_best)
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
        content, _ = self.ranks.broadcast_from_main(partial(read_newest, self.run))
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
        raise CheckpointError(f"this run has no {name} so far: no way to begin with it now")


def keep(state: TrainState, checkpoints: Checkpoints) -> None:
    """Keep what a run begins with as its checkpoint, and say where. Raises NotSaved."""
    checkpoints.save("last", state)
    if not checkpoints.is_saved:
        raise NotSaved(f"{checkpoints.run}: the weights could not be written")
    say(f"written to {checkpoints.run}/checkpoints/{checkpoints.run.last.name}, which evaluate.py reads")
