"""Compare configurations: do they define the same run? No torch here."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.config.renamed import with_current_names, with_first_names
from engine.run.directory import RunDirectory

# Settings that do not affect the result, and may change on resume.
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


def free(config: Mapping[str, Any]) -> set[str]:
    """The dotted names of the settings that do not affect the result of this configuration.

    They include the root directory of downloaded data sets, which have a checksum, but not that of the user's images.
    """
    return {*FREE, PLACE} if "mirrors" in (config.get("dataset") or {}) else {*FREE}


def difference(saved: dict[str, Any], now: dict[str, Any], *, may_move: bool = False) -> str | None:
    """A message about the first result-affecting setting that differs between two configurations, or None.

    With `may_move` the root directory of the images is ignored.
    """
    before, after = deciding(saved), deciding(now)
    for name in sorted((before.keys() | after.keys()) - ({PLACE} if may_move else set())):
        if before.get(name) != after.get(name):
            return f"{name} was {before.get(name)} in this run so far and is {after.get(name)} now"
    return None


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that affect the result, by dotted name; names of earlier releases are replaced by current ones."""
    alike = free(config)
    return {
        name: value
        for name, value in leaves(with_current_names(config))
        if name not in alike and not name.startswith(("expected.", "logger."))
    }


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


LONGEST = 100  # characters of the overrides in a job's directory name


def identity(config: DictConfig) -> str:
    """An 8-digit hexadecimal hash of all settings that affect the result of a job."""
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    return hashlib.sha256(json.dumps(with_first_names(deciding(plain)), sort_keys=True).encode()).hexdigest()[:8]


def job_directory(*, _root_: DictConfig) -> str:
    """The name of a job's directory: its overrides and its identity hash.

    A job keeps its existing directory, even if other overrides have changed.
    """
    if OmegaConf.is_missing(_root_.hydra.job, "override_dirname"):
        return "job"  # e.g. for --cfg
    digits = identity(_root_)
    if there := find_job_directory(_root_, digits):
        return there.name
    said = re.sub(r"[^\w.=,+-]+", "_", str(_root_.hydra.job.override_dirname)).strip("_")
    return f"{said[:LONGEST] or 'job'}-{digits}"


def find_job_directory(config: DictConfig, digits: str) -> Path | None:
    """The existing directory of the job with this identity hash in its sweep, or None."""
    return min(Path(str(config.hydra.sweep.dir)).glob(f"*-{digits}"), default=None)


def is_finished(config: DictConfig) -> bool:
    """Whether a job, given by its full configuration, is finished."""
    if not Path(str(config.hydra.sweep.dir)).is_dir():
        return False
    there = find_job_directory(config, identity(config))
    return there is not None and RunDirectory(there).status == "finished"
