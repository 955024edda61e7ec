"""Check the names in overrides: config groups, their options and keys; an unknown one is answered with the nearest."""

import difflib
import re
import shutil
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override

from engine.config.renamed import REMOVED
from engine.config.schema import Key
from engine.run.errors import CommandError

ROOT = Path(__file__).resolve().parents[2]

CONF = ROOT / "conf"

LISTS = ("regularization", "logger")  # groups of which a run takes any number of options
PLUGINS = ("hydra/launcher", "hydra/sweeper")  # Hydra's own groups; packages may add options

PACKAGES = {f"submitit_{where}": "hydra-submitit-launcher" for where in ("slurm", "local")} | {
    "joblib": "hydra-joblib-launcher"
}

INSTALLED = "installed"  # the group below hydra/launcher with the configs of installed packages


def own_groups() -> list[str]:
    """The config groups of conf/, without conf/hydra, which extends Hydra's own groups."""
    return sorted(directory.name for directory in CONF.iterdir() if directory.is_dir() and directory.name != "hydra")


def groups_of(config_name: str) -> list[str]:
    """The config groups that the command line can select from."""
    return [*own_groups(), *PLUGINS] if config_name == "config" else ["tta"]


def inherited(plugin: str) -> list[str]:
    """The options of a group of Hydra's whose files in conf/ inherit the config of an installed package.

    hydra_plugins/installed_launchers.py puts these configs into a group of their own.
    """
    return GlobalHydra.instance().config_loader().get_group_options(f"{plugin}/{INSTALLED}")


def check_options(override: Override, groups: Sequence[str]) -> None:
    """Reject an unknown option of a config group, and the deletion of a group."""
    loader = GlobalHydra.instance().config_loader()
    group, chosen, line = override.key_or_group, override.value(), override.input_line
    if group not in groups:
        if "/" in group or group in loader.list_groups("") or override.package is not None:
            here = "" if "model" in groups else "; the model and the data are those of the checkpoint"
            raise CommandError(f"{line}: no config group {group}{did_you_mean(group, groups) or here}")
        return
    if group == "attention" and not (
        override.is_add() and re.fullmatch(r"model\.[a-z]\w*_attention", str(override.package))
    ):
        raise CommandError(f"{line}: add attention to the model: +attention@model.block_attention=se")
    if group != "attention" and (override.package is not None or override.is_add() or override.is_force_add()):
        raise CommandError(f"{line}: select an option of this group with {group}=...")
    if (
        group == "hydra/launcher"
        and chosen == "submitit_slurm"
        and not (shutil.which("sbatch") and shutil.which("srun"))
    ):
        raise CommandError(f"{line}: this machine has no sbatch and srun; hydra/launcher=submitit_local needs none")
    if group == "recipe" and (override.is_delete() or chosen is None):
        raise CommandError(f"{line}: for no recipe, leave this out")
    if override.is_delete() or chosen is None or (group in LISTS and chosen in ("none", "null")):
        hint = f"for none: {group}=[]" if group in LISTS else f"select one with {group}=..."
        raise CommandError(f"{line}: this group is required; {hint}")
    if isinstance(chosen, list) and group not in LISTS:
        raise CommandError(f"{line}: {group} takes one option")
    options = [name for name in loader.get_group_options(group) if name not in PACKAGES or name in inherited(group)]
    for option in chosen if isinstance(chosen, list) else [chosen]:
        if str(option) not in options:
            where = "python -m engine.recipes lists them all" if group == "recipe" else "--help lists them all"
            where = f"installed are {', '.join(options)}" if group in PLUGINS else where
            if group == "hydra/launcher" and option in PACKAGES:
                raise CommandError(f"{line}: this needs a package, pip install {PACKAGES[option]}; {where}")
            hint = did_you_mean(as_typed(option), options)
            raise CommandError(f"{group}={as_typed(option)}: no such option{hint}; {where}")


def check_name(
    override: Override, overrides: Sequence[Override], keys: dict[str, Key | None], groups: Sequence[str]
) -> None:
    """Reject an unknown key, also with "+", and a key that interpolates another."""
    name, value, line = override.key_or_group, override.value(), override.input_line
    names_code = any(part.startswith("_") for part in name.split("."))
    if names_code or (isinstance(value, (dict, list)) and "_target_" in str(value)):
        raise CommandError(f"{line}: a _target_ can only be set in conf/; select an option of the group")
    if name.startswith("hydra."):
        return check_hydra_name(override, overrides, keys)
    if name not in keys:
        raise CommandError(f"{name}: {unknown(name, keys, groups)}")
    if override.is_delete() and not re.fullmatch(r"augmentation\.\w+", name):
        raise CommandError(f"~{name}: this key is required")
    key = keys[name]
    if key is None and not override.is_delete():
        raise CommandError(f"{line}: {name} has nested keys, set those ({name}.KEY=...)")
    if key is not None and key.follows:
        raise CommandError(f"{line}: takes the value of {key.follows}, set that")


def unknown(name: str, keys: Iterable[str], groups: Sequence[str]) -> str:
    """The error message for an unknown key."""
    if name in REMOVED:
        return REMOVED[name]
    regularizers = GlobalHydra.instance().config_loader().get_group_options("regularization")
    group, *rest = name.split(".")
    if group == "regularization" and rest and rest[0] in regularizers and f"regularization.{rest[0]}" not in keys:
        return f"{rest[0]} is not selected: regularization=[...,{rest[0]}]"
    parent, _, last = name.rpartition(".")
    settable = [key for key in keys if not any(part.startswith("_") for part in key.split("."))]
    likely = [key for key in settable if f".{key}".endswith(f".{last}")]
    if last in regularizers:
        likely.insert(0, f"regularization=[{last}]")
    hint = did_you_mean(name, settable if parent else [*settable, *groups], first=likely)
    siblings = [key.rpartition(".")[2] for key in settable if parent and key.rpartition(".")[0] == parent]
    if siblings and not hint:
        hint = f"; {parent} has {', '.join(siblings)}"
    return f"no such key{hint}"


def check_hydra_name(override: Override, overrides: Sequence[Override], keys: dict[str, Key | None]) -> None:
    """Reject Hydra's own keys that conf/ does not offer.

    The keys of an installed launcher or sweeper, which conf/hydra does not have, are known to Hydra only.
    """
    name, line = override.key_or_group, override.input_line
    changes = not (override.is_add() or override.is_force_add() or override.is_delete())
    offered = [key for key, what in keys.items() if key.startswith("hydra.") and what and what.form]
    plugin = next((group for group in PLUGINS if name.startswith(f"{group.replace('/', '.')}.")), None)
    chosen = next((other.value() for other in overrides if other.key_or_group == plugin), "basic")
    if plugin and chosen == "basic":
        raise CommandError(f"{line}: {plugin}=basic has no settings")
    is_own = plugin and (CONF / plugin / f"{chosen}.yaml").is_file() and chosen not in inherited(plugin)
    if plugin and not is_own:
        require_installed(name, plugin, chosen)
    if name not in offered and (is_own or not plugin):
        hint = did_you_mean(name, offered) or f"; of those of Hydra there are {', '.join(offered)}"
        raise CommandError(f"{name}: no such key{hint}")
    if not changes:
        raise CommandError(f"{line}: set Hydra's keys with {name}=...")


def did_you_mean(word: str, known: Iterable[str], first: Sequence[str] = ()) -> str:
    """A "did you mean" suffix with the closest known words, or an empty string."""
    typed = word.lower()

    def same_beginning(candidate: str) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(typed, candidate.lower(), strict=False))))

    by_lower = {candidate.lower(): candidate for candidate in known}
    near = [by_lower[found] for found in difflib.get_close_matches(typed, by_lower, n=5, cutoff=0.75)]
    near = list(dict.fromkeys([*first, *sorted(near, key=same_beginning, reverse=True)]))
    if not near and len(typed) >= 3:  # part of a word
        near = sorted((by_lower[found] for found in by_lower if typed in found), key=len)
    return f", did you mean {' or '.join(near[:2])}?" if near else ""


def require_installed(name: str, plugin: str, chosen: str) -> None:
    """Reject a key that an installed launcher or sweeper does not have, by its schema in Hydra's ConfigStore."""
    parent = plugin.replace("/", ".")
    group = f"{plugin}/{INSTALLED}" if chosen in inherited(plugin) else plugin
    node = ConfigStore.instance().load(f"{group}/{chosen}.yaml").node
    known = [f"{parent}.{key}" for key in node if not str(key).startswith("_")]
    if ".".join(name.split(".")[:3]) not in known:
        hint = did_you_mean(name, known) or f"; {plugin}={chosen} has {', '.join(key.split('.')[2] for key in known)}"
        raise CommandError(f"{name}: no such key{hint}")


def as_typed(value: Any) -> str:
    """A plain value in command-line syntax."""
    if isinstance(value, list):
        return f"[{','.join(as_typed(member) for member in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_typed(member)}' for key, member in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and re.fullmatch(r"null|true|false|[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE):
        return f"'{value}'"  # text that looks like something else
    return str(value)
