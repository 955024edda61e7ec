"""Names of earlier releases: of keys, and of modules in `_target_`. Old checkpoints, runs and sweeps keep working.

A renamed key is answered with its new name on the command line.
"""

from collections.abc import Mapping
from typing import Any

# Moved modules, new prefixes by old ones.
MODULES = {
    "engine.averages.": "engine.training.averages.",
    "engine.optimizers.": "engine.training.optimizers.",
    "engine.sam.": "engine.training.sam.",
    "engine.tta.": "engine.evaluation.tta.",
}

# Renamed keys within the same parent.
KEYS = {
    "model.checkpointing": "model.gradient_checkpointing",
    "trainer.micro_batches": "trainer.gradient_accumulation",
}

# What to tell the user of a key that is gone.
REMOVED = {key: f"renamed to {name}" for key, name in KEYS.items()}
REMOVED["trainer.graph"] = "renamed to logger.tensorboard.log_graph"
REMOVED |= {
    f"trainer.{key}": f"several machines, and restarts, are torchrun's: torchrun --{flag} (docs/distributed.md)"
    for key, flag in {"nodes": "nnodes", "rendezvous": "rdzv-endpoint", "max_restarts": "max-restarts"}.items()
}


def with_current_names(config: Any, prefix: str = "") -> Any:
    """A configuration as plain data, with keys and `_target_`s of earlier releases renamed."""
    if isinstance(config, list):
        return [with_current_names(member, prefix) for member in config]
    if not isinstance(config, dict):
        return config
    found = {}
    for key, value in config.items():
        name = KEYS.get(f"{prefix}{key}", f"{prefix}{key}")
        known = with_prefix_replaced(value, MODULES) if key == "_target_" else with_current_names(value, f"{name}.")
        found[name.removeprefix(prefix)] = known
    return found


def with_current_key(override: str) -> str:
    """An override KEY=VALUE, with a key of an earlier release renamed."""
    key, equals, value = override.partition("=")
    return f"{KEYS.get(key, key)}{equals}{value}"


def with_first_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, with keys and `_target_`s by their first names, which identify runs across releases."""
    keys, modules = ({new: old for old, new in names.items()} for names in (KEYS, MODULES))
    return {
        keys.get(name, name): with_prefix_replaced(value, modules) if name.endswith("_target_") else value
        for name, value in settings.items()
    }


def with_prefix_replaced(name: Any, prefixes: Mapping[str, str]) -> Any:
    """A dotted name with the first matching prefix replaced; anything else than text is returned unchanged."""
    if isinstance(name, str):
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
    return name
