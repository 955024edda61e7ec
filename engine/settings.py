"""Whether two configurations make the same run. No torch here."""

from collections.abc import Iterator
from typing import Any

# Settings that do not alter what a run computes, and so may differ when it is resumed.
FREE = (
    "resume",
    "resume_force",
    "init_only",
    "lr_find",
    "sweep",
    "sweep_on_error",
    "trainer.graph",
    "sweep_jobs_per_gpu",
    "sweep_estimate",
    "trainer.on_nonfinite",
    "trainer.checkpoint_minutes",
    "trainer.checkpoint_every_steps",
    "trainer.device",
    "trainer.devices",
    "trainer.nodes",
    "trainer.rendezvous",
    "trainer.max_restarts",
    "trainer.eval_batch_size",
    "trainer.cuda_graphs",
    "dataset.root",
    "dataset.mirrors",
)


def difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting, apart from `FREE`, in which two configurations differ, in words; None if they agree."""
    before, after = deciding(saved), deciding(now)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return f"{name} was {before.get(name)} in this run so far and is {after.get(name)} now"
    return None


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that alter what a run computes, by their dotted names."""
    return {name: value for name, value in leaves(config) if name not in FREE and not name.startswith("expected.")}


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
