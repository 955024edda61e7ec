"""Resume a run: find it, and combine its overrides with the command line's. No torch here."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from engine.config.identity import difference
from engine.config.overrides import MISTAKES, key_of, parse
from engine.config.renamed import with_current_key
from engine.run.console import echo
from engine.run.directory import RunDirectory
from engine.run.errors import CommandError
from engine.run.exit import reason
from engine.run.process import is_main_process

AUTO = "auto"

OUTPUTS = Path("outputs")


def with_resumed(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides; with `resume=`, those of the resumed run followed by the ones given now.

    Hydra must be initialised. Prints which run `resume=auto` has found.
    """
    given = {key_of(override): override for override in overrides}
    word = parse(given.get("resume", "resume=null"))
    if word.is_sweep_override() or (multirun and word.value() is not None):
        raise CommandError("resume= takes one run, and cannot be combined with -m")
    if word.value() == AUTO:
        return newest_unfinished([override for override in overrides if key_of(override) != "resume"])
    run = resumed(overrides)
    if run is None:
        return list(overrides)
    if "hydra.run.dir" in given:
        raise CommandError(f"{given['hydra.run.dir']}: resume= uses the directory of the run, leave this out")
    if not run.path.is_dir():
        raise CommandError(f"resume={run}: {'not a directory' if run.path.exists() else 'no such directory'}")
    if not (run.newest and run.overrides.is_file()):
        missing = run.overrides if run.newest else run.last
        raise CommandError(f"resume={run}: no checkpoint to resume from ({missing} does not exist)")
    saved = [override for override in saved_overrides(run) if key_of(override) not in given]
    for override in saved:
        require_harmless(override, run)
    return [*saved, *overrides]


def newest_unfinished(overrides: Sequence[str]) -> list[str]:
    """The overrides that resume the newest unfinished run with these settings; if there is none, these overrides.

    Searches the given run directory, or outputs/.
    """
    wanted = composed(overrides)
    chosen = Path(OmegaConf.select(wanted, "hydra.run.dir"))
    directories = [chosen] if any(key_of(word) == "hydra.run.dir" for word in overrides) else OUTPUTS.glob("*/*")
    runs = [run for run in map(RunDirectory, directories) if run.newest and run.overrides.is_file()]
    newest_first = sorted(runs, key=lambda run: run.newest.stat().st_mtime, reverse=True)
    found = next((run for run in newest_first if run.status != "finished" and is_same(run, wanted)), None)
    if is_main_process():
        what = f"resuming {found}" if found else "found no unfinished run with these settings, starting a new one"
        echo(f"resume=auto: {what}")
    return with_resume_argument(overrides, found) if found else list(overrides)


def with_resume_argument(overrides: Sequence[str], run: RunDirectory) -> list[str]:
    """The overrides with `hydra.run.dir=` replaced by `resume=`."""
    return [*(word for word in overrides if key_of(word) != "hydra.run.dir"), f"resume='{quoted(run.path)}'"]


def is_same(run: RunDirectory, wanted: DictConfig) -> bool:
    """Whether a run was started with the result-affecting settings of a configuration."""
    try:
        words = saved_overrides(run)
        for word in words:
            require_harmless(word, run)
        had = composed(words)
    except MISTAKES:
        return False
    before, now = (OmegaConf.to_container(config, resolve=False) for config in (had, wanted))
    del before["hydra"], now["hydra"]
    return difference(before, now) is None


def composed(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of a run, with the `hydra` node."""
    return compose("config", overrides=list(overrides), return_hydra_config=True)


def quoted(path: Path) -> str:
    """An absolute path, escaped for single quotes in a Hydra override."""
    return str(path.resolve()).replace("'", r"\'")


def resumed(overrides: Sequence[str]) -> RunDirectory | None:
    """The run that `resume=` names, or None; a value that is not a string is rejected later."""
    given = [parse(override).value() for override in overrides if key_of(override) == "resume" and "=" in override]
    is_text = bool(given) and isinstance(given[-1], str) and bool(given[-1])
    return RunDirectory(Path(os.path.expanduser(given[-1]))) if is_text else None


def saved_overrides(run: RunDirectory) -> list[str]:
    """The overrides that a run was started with. Raises CommandError for a damaged file."""
    try:
        saved = yaml.safe_load(run.overrides.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"{run.overrides} is damaged: {reason(error)}") from None
    if not isinstance(saved, list) or not all(isinstance(override, str) for override in saved):
        raise CommandError(f"{run.overrides} is damaged: not a list of overrides")
    return [with_current_key(override) for override in saved]


def require_harmless(override: str, run: RunDirectory) -> None:
    """Check a saved override more strictly than a typed one, since a run directory may be untrusted.

    It must not set Hydra's own keys, which could name code, nor use resolvers, which could read the environment.
    """
    try:
        name = parse(override).key_or_group
    except CommandError as error:
        raise CommandError(f"{run.overrides}: {error}") from None
    if re.match(r"hydra\b", name):
        raise CommandError(f"{run.overrides}: {override}: Hydra's own keys are not read from a file")
    if re.search(r"\$\{[^}]*:", override):
        raise CommandError(f"{run.overrides}: {override}: resolvers are not allowed in this file; give the value")


def resume_directory(overrides: Sequence[str]) -> list[str]:
    """The overrides that set Hydra's directory to that of the resumed run; empty for a new run."""
    run = resumed(overrides)
    if run is None:
        return []
    return [f"hydra.run.dir='{quoted(run.path)}'", "hydra.output_subdir=null"]


def with_restart(overrides: Sequence[str]) -> list[str]:
    """The overrides of a run that torchrun has restarted: with `resume=` if there is a checkpoint."""
    given = {key_of(word): word for word in overrides}
    if "resume" in given or "hydra.run.dir" not in given:
        return list(overrides)
    run = RunDirectory(Path(parse(given["hydra.run.dir"]).value()))
    return with_resume_argument(overrides, run) if run.newest else list(overrides)
