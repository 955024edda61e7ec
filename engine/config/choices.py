"""The selected options of a run's config groups, and the expected result of its recipe. No torch here."""

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.config.identity import FREE, PLACE
from engine.config.overrides import key_of

# Settings that may differ from a recipe without changing the expected accuracy.
HARMLESS = {*FREE, PLACE, "recipe", "dataset", "seed", "trainer.clean_train_accuracy", "model.gradient_checkpointing"}
HARMLESS |= {f"trainer.{key}" for key in ("precision", "memory_format", "compile", "deterministic")}


def chosen_options(config: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """The selected option of each config group; for regularization, which takes several, a list.

    Only regularizers that another key interpolates are listed: a recipe may set one that the command line has
    deselected. "expected" is the accuracy of the recipe's source.
    """
    groups = ("recipe", "model", "optimizer", "scheduler", "dataset", "tta")
    choices = {group: hydra.runtime.choices[group] for group in groups}
    references = re.findall(r"\$\{regularization\.(\w+)", OmegaConf.to_yaml(config))
    choices["regularization"] = [name for name in config.regularization if name in references]
    return choices | {"expected": expected(config, choices["dataset"], hydra.overrides.task)}


def expected(config: DictConfig, dataset: str, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The recipe's accuracy on a data set, in percent, with its source and what the command line changed, or None."""
    if dataset not in config.expected or config.expected[dataset].test_accuracy is None:
        return None
    keys = map(key_of, overrides)
    changed = [key for key in keys if key not in HARMLESS and not key.startswith("hydra.")]
    figures = OmegaConf.to_container(config.expected[dataset])
    return figures | {"source": config.expected.source, "result": config.expected.result, "changed": changed}
