"""Check a configuration before torch is imported, with one-line error messages."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from engine.config.combinations import check_evaluation, check_model, check_regularizers, check_targets, check_together
from engine.config.did_you_mean import LISTS, as_typed, check_name, check_options, groups_of
from engine.config.schema import Key, composing, keys_of_files, known_keys
from engine.run.errors import CommandError

ABSENT = object()


def check(config_name: str, overrides: Sequence[Override], *, to_run: bool = True) -> DictConfig:
    """Compose and check the configuration of one job, including the `hydra` node. Hydra must be initialised.

    Without `to_run`, e.g. for --cfg, mandatory values may be missing. Raises CommandError for the first error.
    """
    lines = [str(override.input_line) for override in overrides]
    groups = groups_of(config_name)
    for override in overrides:
        check_options(override, groups)
    found = list(keys_of_files(config_name, lines))
    keys = known_keys(found)
    for override in overrides:
        if override.key_or_group not in groups:
            check_name(override, overrides, keys, groups)
    check_recipe(overrides, found, keys)
    with composing():
        config = compose(config_name, overrides=lines, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} interpolations
    missing = check_values(config, keys, overrides)
    if missing and to_run:
        raise CommandError(f"{missing} must be given: {keys[missing].description}")
    if config_name == "config":
        check_regularizers(config, found)
        check_targets(config)
        check_model(config)
        check_together(config)
    elif to_run:
        check_evaluation(config)
    return config


def check_recipe(
    overrides: Sequence[Override], found: Sequence[tuple[str, str, Key | None]], keys: dict[str, Key | None]
) -> None:
    """Reject a recipe's key that does not exist, or that is for an option which the command line replaces.

    Keys of a regularizer that is not selected are ignored.
    """
    given = {override.key_or_group: override.input_line for override in overrides}
    of_any_option = {name for file, name, _ in found if "/" not in file}
    for name in [name for file, name, key in found if file.startswith("recipe/") and key is not None]:
        group, *below = name.split(".")
        if name in given or (group == "regularization" and f"{group}.{below[0]}" not in keys):
            continue
        if name not in keys:
            if group == "recipe":
                raise CommandError(f"{given[group]}: its file must start with '# @package _global_'")
            because = f" with {given[group]}" if group in given else ""
            raise CommandError(f"{given['recipe']}: it sets {name}, but there is no such key{because}")
        if group in given and group not in LISTS and name not in of_any_option:
            raise CommandError(f"{given[group]}: {given['recipe']} sets {name} for another {group}: set it as well")


def check_values(config: DictConfig, keys: dict[str, Key | None], overrides: Sequence[Override]) -> str | None:
    """Check each value against its key's type and range; return the first missing mandatory key or None."""
    typed = {override.key_or_group: override.input_line for override in overrides}
    missing = None
    # Hydra's own keys last, since they depend on the others.
    for name, key in sorted(keys.items(), key=lambda item: item[0].startswith("hydra.")):
        if name.startswith("hydra.") and not (key and key.form):
            continue
        try:
            value = OmegaConf.select(config, name, default=ABSENT, throw_on_missing=True)
            if key and OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except MissingMandatoryValue:
            missing = missing or name
            continue
        except (OmegaConfBaseException, RecursionError) as error:
            if isinstance(error, InterpolationToMissingValueError) and "hydra" in str(error):
                continue  # Hydra sets the job number, and the like, only later
            reason = str(error).splitlines()[0]
            raise CommandError(f"{typed.get(name, name)}: the interpolation cannot be resolved ({reason})") from None
        if key is None and value is not ABSENT and not OmegaConf.is_dict(value):
            raise CommandError(f"{name}={as_typed(value)}: {name} has nested keys")
        if key and value is not ABSENT and (mistake := key.mistake(value, partial(value_of_other, config, name))):
            whence = "" if name in typed or not key.description else f" ({key.description})"
            raise CommandError(f"{name}={as_typed(value)}: {mistake}{whence}")
    return missing


def value_of_other(config: DictConfig, name: str, other: str) -> Any:
    """The value of the key `other`, a sibling of key `name` or a full dotted name, or None."""
    return OmegaConf.select(config, other if "." in other else f"{name.rpartition('.')[0]}.{other}", default=None)
