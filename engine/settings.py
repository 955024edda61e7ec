"""Whether two configurations make the same run. No torch here."""

from collections.abc import Iterator, Mapping
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
    "dataset.mirrors",
)
PLACE = "dataset.root"  # where images lie, which decides what they are unless they are published files


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
    """The settings that alter what a run computes, by their dotted names."""
    alike = free(config)
    return {name: value for name, value in leaves(config) if name not in alike and not name.startswith("expected.")}


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
