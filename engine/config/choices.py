"""The options that a run's configuration was composed of, and what its recipe leads one to expect. No torch here."""

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.config.identity import FREE, PLACE
from engine.config.overrides import key_of

# What may differ from a recipe without another accuracy to be expected.
HARMLESS = {*FREE, PLACE, "recipe", "dataset", "seed", "trainer.clean_train_accuracy", "model.checkpointing"}
HARMLESS |= {f"trainer.{key}" for key in ("precision", "memory_format", "compile", "deterministic")}


def chosen_options(config: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """The option chosen of each group by name; of regularization, which takes several, a list.

    A recipe may have a value for a regularizer that the command line has left out: those count that something
    refers to. "expected" is what the recipe's source found.
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
