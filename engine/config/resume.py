"""Going on with a run: whose settings hold, and what is taken from its directory. No torch here."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from engine.config.identity import difference
from engine.config.overrides import MISTAKES, key_of, parse
from engine.run.console import echo
from engine.run.directory import RunDirectory
from engine.run.errors import CommandError
from engine.run.exit import reason
from engine.run.process import is_main_process

AUTO = "auto"

OUTPUTS = Path("outputs")


def with_resumed(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides as they are or, behind `resume=`, those of the resumed run and then the ones given now.

    Hydra must have been initialised. Says which run `resume=auto` has found.
    """
    given = {key_of(override): override for override in overrides}
    word = parse(given.get("resume", "resume=null"))
    if word.is_sweep_override() or (multirun and word.value() is not None):
        raise CommandError("resume= goes on with one run, and without -m")
    if word.value() == AUTO:
        return newest_unfinished([override for override in overrides if key_of(override) != "resume"])
    run = resumed(overrides)
    if run is None:
        return list(overrides)
    if "hydra.run.dir" in given:
        raise CommandError(f"{given['hydra.run.dir']}: resume= goes on in the directory of the run, leave this out")
    if not run.path.is_dir():
        raise CommandError(f"resume={run}: {'not a directory' if run.path.exists() else 'no such directory'}")
    if not (run.newest and run.overrides.is_file()):
        missing = run.overrides if run.newest else run.last
        raise CommandError(f"resume={run}: there is no checkpoint to go on from ({missing} does not exist)")
    saved = [override for override in saved_overrides(run) if key_of(override) not in given]
    for override in saved:
        require_harmless(override, run)
    return [*saved, *overrides]


def newest_unfinished(overrides: Sequence[str]) -> list[str]:
    """The overrides that go on with the newest run of these settings which is not finished, else these alone.

    It is looked for in the directory that is given for the run, or below outputs/.
    """
    wanted = composed(overrides)
    place = Path(OmegaConf.select(wanted, "hydra.run.dir"))
    directories = [place] if any(key_of(word) == "hydra.run.dir" for word in overrides) else OUTPUTS.glob("*/*")
    runs = [run for run in map(RunDirectory, directories) if run.newest and run.overrides.is_file()]
    newest_first = sorted(runs, key=lambda run: run.newest.stat().st_mtime, reverse=True)
    found = next((run for run in newest_first if run.status != "finished" and is_same(run, wanted)), None)
    if is_main_process():
        what = f"going on with {found}" if found else "there is no unfinished run of these settings, a new one begins"
        echo(f"resume=auto: {what}")
    return in_place_of_directory(overrides, found) if found else list(overrides)


def in_place_of_directory(overrides: Sequence[str], run: RunDirectory) -> list[str]:
    """The words that go on with a run, in place of those that begin one in its directory."""
    return [*(word for word in overrides if key_of(word) != "hydra.run.dir"), f"resume='{quoted(run.path)}'"]


def is_same(run: RunDirectory, wanted: DictConfig) -> bool:
    """Whether a run was started with the settings of a configuration, but for those that make no difference."""
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
    """The configuration of a run, with Hydra's own part."""
    return compose("config", overrides=list(overrides), return_hydra_config=True)


def quoted(path: Path) -> str:
    """A path as it stands between single quotes on Hydra's command line."""
    return str(path.resolve()).replace("'", r"\'")


def resumed(overrides: Sequence[str]) -> RunDirectory | None:
    """The run that `resume=` names, or None; a value that is no text is left to be refused with its key."""
    given = [parse(override).value() for override in overrides if key_of(override) == "resume" and "=" in override]
    is_text = bool(given) and isinstance(given[-1], str) and bool(given[-1])
    return RunDirectory(Path(os.path.expanduser(given[-1]))) if is_text else None


def saved_overrides(run: RunDirectory) -> list[str]:
    """The settings that a run was started with. Raises CommandError for a file that holds something else."""
    try:
        saved = yaml.safe_load(run.overrides.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"{run.overrides} is damaged: {reason(error)}") from None
    if not isinstance(saved, list) or not all(isinstance(override, str) for override in saved):
        raise CommandError(f"{run.overrides} is damaged: it is no list of settings")
    return saved


def require_harmless(override: str, run: RunDirectory) -> None:
    """Hold a saved setting to more than one that is typed, since a run's directory may come from somebody else.

    It sets nothing of Hydra's, which could name code, and refers to nothing outside, such as the environment.
    """
    try:
        name = parse(override).key_or_group
    except CommandError as error:
        raise CommandError(f"{run.overrides}: {error}") from None
    if re.match(r"hydra\b", name):
        raise CommandError(f"{run.overrides}: {override}: a setting of Hydra's is not taken from a file")
    if re.search(r"\$\{[^}]*:", override):
        raise CommandError(f"{run.overrides}: {override}: this reference is not followed out of a file; give the value")


def in_its_own_directory(overrides: Sequence[str]) -> list[str]:
    """What tells Hydra that a run goes on where it is; nothing for a new one."""
    run = resumed(overrides)
    if run is None:
        return []
    return [f"hydra.run.dir='{quoted(run.path)}'", "hydra.output_subdir=null"]


def going_on(overrides: Sequence[str]) -> list[str]:
    """The words of a command whose processes begin again: those that go on with what the first ones left."""
    given = {key_of(word): word for word in overrides}
    if "resume" in given or "hydra.run.dir" not in given:
        return list(overrides)
    run = RunDirectory(Path(parse(given["hydra.run.dir"]).value()))
    return in_place_of_directory(overrides, run) if run.newest else list(overrides)
