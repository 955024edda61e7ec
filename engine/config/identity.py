"""Whether two configurations make the same run. No torch here."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.run.directory import RunDirectory

# Settings that do not alter what a run computes, and so may differ when it is resumed.
FREE = (
    "resume",
    "resume_force",
    "init_only",
    "lr_find",
    "sweep",
    "sweep_on_error",
    "sweep_jobs_per_gpu",
    "sweep_estimate",
    "trainer.on_nonfinite",
    "trainer.checkpoint_minutes",
    "trainer.checkpoint_every_steps",
    "trainer.device",
    "trainer.devices",
    "trainer.eval_batch_size",
    "trainer.cuda_graphs",
    "dataset.mirrors",
)

PLACE = "dataset.root"  # where images lie, which decides what they are unless they are published files


# Targets whose module has moved, new beginnings by old ones: checkpoints and sweeps of before keep their meaning.
MOVED = {
    "engine.averages.": "engine.training.averages.",
    "engine.optimizers.": "engine.training.optimizers.",
    "engine.sam.": "engine.training.sam.",
    "engine.tta.": "engine.evaluation.tta.",
}


def with_moved_targets(config: Any) -> Any:
    """A configuration as plain data, each `_target_` by the name that it has now."""
    if isinstance(config, list):
        return [with_moved_targets(member) for member in config]
    if not isinstance(config, dict):
        return config
    return {
        key: replaced(value, MOVED) if key == "_target_" else with_moved_targets(value) for key, value in config.items()
    }


def replaced(name: Any, beginnings: Mapping[str, str]) -> Any:
    """A dotted name with another beginning, where one of `beginnings` is its own."""
    for old, new in beginnings.items():
        if isinstance(name, str) and name.startswith(old):
            return new + name.removeprefix(old)
    return name


def free(config: Mapping[str, Any]) -> set[str]:
    """The settings that do not alter what a run with this configuration computes, by their dotted names.

    The place of published files, which are held to a checksum, is one of them, and that of one's own images is not.
    """
    return {*FREE, PLACE} if "mirrors" in (config.get("dataset") or {}) else {*FREE}


def difference(saved: dict[str, Any], now: dict[str, Any], *, may_move: bool = False) -> str | None:
    """The first setting in which two configurations differ that alters the result, in words; None if they agree.

    With `may_move` the images count as the same ones wherever they lie.
    """
    before, after = deciding(saved), deciding(now)
    for name in sorted((before.keys() | after.keys()) - ({PLACE} if may_move else set())):
        if before.get(name) != after.get(name):
            return f"{name} was {before.get(name)} in this run so far and is {after.get(name)} now"
    return None


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that alter what a run computes, by their dotted names; targets by their first names."""
    alike, first = free(config), {new: old for old, new in MOVED.items()}
    return {
        name: replaced(value, first) if name.endswith("_target_") else value
        for name, value in leaves(config)
        if name not in alike and not name.startswith(("expected.", "logger."))
    }


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


LONGEST = 100  # characters of what a directory's name says of a job


def identity(config: DictConfig) -> str:
    """Eight hexadecimal digits that follow from all settings which alter what a job computes, and from nothing else."""
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    return hashlib.sha256(json.dumps(deciding(plain), sort_keys=True).encode()).hexdigest()[:8]


def job_directory(*, _root_: DictConfig) -> str:
    """The name of a job's directory: its settings as a person reads them, and its identity.

    A job that has a directory keeps it, whatever else the command now says.
    """
    if OmegaConf.is_missing(_root_.hydra.job, "override_dirname"):
        return "job"  # it is only looked at
    digits = identity(_root_)
    if there := begun(_root_, digits):
        return there.name
    said = re.sub(r"[^\w.=,+-]+", "_", str(_root_.hydra.job.override_dirname)).strip("_")
    return f"{said[:LONGEST] or 'job'}-{digits}"


def begun(config: DictConfig, digits: str) -> Path | None:
    """The directory that the job of this identity has in its sweep, if it has one."""
    return min(Path(str(config.hydra.sweep.dir)).glob(f"*-{digits}"), default=None)


def is_finished(config: DictConfig) -> bool:
    """Whether a job, given by its whole configuration, has nothing left to do."""
    if not Path(str(config.hydra.sweep.dir)).is_dir():
        return False
    there = begun(config, identity(config))
    return there is not None and RunDirectory(there).status == "finished"
