"""The command line, in front of Hydra's own handling of it.

Every job is checked before torch is imported, and a mistake is answered in one line; the settings
of a run named by `resume=` are put behind it; the help text lists the groups' options.
"""

import argparse
import math
import os
import re
import secrets
import signal
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.check import CONF, CommandError, check, did_you_mean
from engine.rundir import RunDirectory

# What may differ from a recipe without another accuracy to be expected.
HARMLESS = {"recipe", "dataset", "dataset.root", "dataset.mirrors", "seed", "resume", "resume_force"}
HARMLESS |= {
    f"trainer.{key}" for key in ("device", "precision", "memory_format", "compile", "deterministic", "eval_batch_size")
}
HARMLESS |= {"trainer.clean_train_accuracy", "model.checkpointing"}
MISTAKES = (
    CommandError,
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
    OSError,
    RecursionError,
)
MOST_JOBS = 1000  # of one sweep; to check a job takes a tenth of a second
LONGEST = 600  # characters of an answer
LONGEST_SETTING = 4000  # characters; to read more would take longer than a second


def command_line(config_name: str) -> None:
    """Check the command line before Hydra acts on it; exit with status 2 and one line where it is wrong.

    Behind `resume=`, `sys.argv` is given the resumed run's own settings.
    """
    register_resolvers()
    try:
        arguments = parse_flags()
        if arguments.help or arguments.hydra_help:
            sys.argv[1:] = ["--help" if arguments.help else "--hydra-help"]  # whatever else was typed
            return
        if arguments.shell_completion:
            return check_completion(arguments.overrides)
        to_run = arguments.cfg is None and arguments.info is None
        overrides = arguments.overrides
        if config_name == "config":
            overrides = with_resumed(overrides, multirun=arguments.multirun)
        with initialized(arguments.config_dir), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's and OmegaConf's, of what is refused anyway
            configs = [check(config_name, job, to_run=to_run) for job in jobs(overrides, multirun=arguments.multirun)]
        if arguments.package and OmegaConf.select(configs[0], arguments.package) is None:
            raise CommandError(f"--package {arguments.package}: no such key")
        if to_run and config_name == "config":
            check_directories(configs, multirun=arguments.multirun)
    except MISTAKES as error:
        leave(error)
    flags = [argument for argument in sys.argv[1:] if argument not in arguments.overrides]
    sys.argv[1:] = [*flags, *overrides, *in_its_own_directory(overrides)]


def leave(error: Exception | str, status: int = 2) -> NoReturn:
    """Say what is wrong in one line on standard error and exit with `status`."""
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    said = " ".join(reason(error).split())
    said = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in said)
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
    print(f"{name}: {said}", file=sys.stderr)
    raise SystemExit(status)


def reason(error: Exception | str) -> str:
    """What an exception says of the mistake behind it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "something is nested too deeply, or holds itself"
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{error}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def stopped(run: RunDirectory, status: int = 128 + signal.SIGINT) -> NoReturn:
    """Say that a run was stopped and, where something is saved, how to go on; exit with `status`."""
    print(f"stopped; to go on: {run.to_go_on}" if run.newest else "stopped before the first step", flush=True)
    raise SystemExit(status)


# Flags


def parse_flags() -> argparse.Namespace:
    """The arguments as Hydra sorts them. Raises CommandError for flags that there are not, or not together."""
    parser = get_args_parser()
    parser.error = refuse_flag
    arguments = parser.parse_intermixed_args()
    if arguments.config_name or arguments.config_path:
        raise CommandError("--config-name and --config-path: there is one configuration; --config-dir adds options")
    if arguments.experimental_rerun:
        raise CommandError("--experimental-rerun runs what lies in a pickle file; resume= goes on with a run")
    if arguments.run + arguments.multirun + (arguments.cfg is not None) + (arguments.info is not None) > 1:
        raise CommandError("--run, --multirun, --cfg and --info: only one of them can be given")
    if (arguments.resolve or arguments.package) and arguments.cfg is None:
        raise CommandError("--resolve and --package belong to --cfg")
    return arguments


def refuse_flag(message: str) -> NoReturn:
    """Raise CommandError with what argparse says; a setting that was typed like a flag is told how to write it."""
    unknown = re.fullmatch(r"unrecognized arguments: (--?([\w.]+).*)", message, re.DOTALL)
    if unknown:
        message = f"{unknown[1]}: no such flag; a setting is written without dashes, KEY=VALUE{meant(unknown[2])}"
    raise CommandError(message)


def meant(word: str) -> str:
    """What somebody may have meant who typed the name of a group or of an option alone."""
    groups = {directory.name: directory for directory in CONF.iterdir() if directory.is_dir()}
    chosen = [f"{group}={word}" for group, directory in groups.items() if (directory / f"{word}.yaml").is_file()]
    return did_you_mean(word, [], first=[f"{word}=..."] if word in groups else chosen)


def check_completion(overrides: Sequence[str]) -> None:
    """Refuse what `--shell-completion` cannot do."""
    shells = ("bash", "fish", "zsh")
    if len(overrides) != 1 or not re.fullmatch(rf"(install|uninstall|query)=({'|'.join(shells)})", overrides[0]):
        raise CommandError(f"--shell-completion: install=, uninstall= or query= one of {', '.join(shells)} is wanted")


@contextmanager
def initialized(config_dir: str | None) -> Iterator[None]:
    """Hydra, ready to compose from conf/ and from the directory of `--config-dir`, as it will be in the run."""
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        if not os.path.isdir(config_dir):
            raise CommandError(f"--config-dir={config_dir}: no such directory")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
    Hydra.create_main_hydra2(task_name="check", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def check_directories(configs: Sequence[DictConfig], *, multirun: bool) -> None:
    """Refuse a directory that cannot be written to, that holds other results, or that several jobs would share."""
    key, found = ("hydra.sweep.dir", "*/checkpoints/last.pt") if multirun else ("hydra.run.dir", "checkpoints/last.pt")
    for config in configs:
        place = Path(OmegaConf.select(config, key))
        nearest = next(directory for directory in (place, *place.parents) if directory.is_dir())
        try:
            tempfile.TemporaryDirectory(dir=nearest).cleanup()
        except OSError as error:
            raise CommandError(f"{key}={place}: nothing can be written to {nearest} ({error.strerror})") from None
        if config.resume is None and next(place.glob(found), None):
            raise CommandError(f"{key}={place}: there are results in it already; choose another, or go on with resume=")
    subdirectories = [OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] for config in configs]
    same = [name for name in subdirectories if "${" not in name and subdirectories.count(name) > 1]
    if multirun and same:
        raise CommandError(f"hydra.sweep.subdir={same[0]}: each job needs a directory of its own")


# Settings


def parse(override: str) -> Override:
    """One argument as Hydra reads it. Raises CommandError for what it cannot read."""
    if len(override) > LONGEST_SETTING:
        raise CommandError(f"{override[:40]}...: longer than {LONGEST_SETTING:,} characters")
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    try:
        (parsed,) = OverridesParser.create(config_loader=loader).parse_overrides([override])
    except (RecursionError, ValueError) as error:
        raise CommandError(f"{override}: {reason(error)}") from None
    except HydraException:
        if re.fullmatch(r"[\w.]+", override):
            raise CommandError(f"{override}: this is not KEY=VALUE{meant(override)}") from None
        raise CommandError(
            f"{override}: this is not KEY=VALUE; a value with special characters wants quotes of its own, "
            "'KEY=\"VALUE\"'"
        ) from None
    if not parsed.key_or_group:
        raise CommandError(f"{override}: the key is missing")
    return parsed


def jobs(overrides: Sequence[str], *, multirun: bool) -> Iterator[list[Override]]:
    """The overrides of each job: of a sweep, every combination of its values."""
    parsed = [parse(override) for override in overrides]
    sweeper = next((override.value() for override in parsed if override.key_or_group == "hydra/sweeper"), "basic")
    choices: list[list[Override]] = []
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            raise CommandError(f"{override.input_line}: several values make a sweep, which wants -m")
        choices.append(swept(override, sweeper) if override.is_sweep_override() else [override])
    count = math.prod(map(len, choices))
    if count > MOST_JOBS:
        raise CommandError(f"this sweep has {count:,} jobs or more, and {MOST_JOBS:,} is the most")
    return (list(job) for job in product(*choices))


def swept(override: Override, sweeper: Any) -> list[Override]:
    """An override of a sweep for each of its values; of an interval, whose values another sweeper chooses, its ends."""
    line, key = override.input_line, override.get_key_element()
    if override.is_interval_sweep():
        if sweeper == "basic":
            raise CommandError(f"{line}: an interval is for a sweeper that chooses in it; here a,b,c or range(...)")
        values = [str(override.value().start), str(override.value().end)]
    else:
        try:
            values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        except ValueError as error:
            raise CommandError(f"{line}: {error}") from None
    if not values:
        raise CommandError(f"{line}: there is no value in it")
    return [parse(f"{key}={value}") for value in values]


# Going on with a run


def with_resumed(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides as they are or, behind `resume=`, those of the resumed run and then the ones given now."""
    given = {key_of(override): override for override in overrides}
    word = parse(given.get("resume", "resume=null"))
    if word.is_sweep_override() or (multirun and word.value() is not None):
        raise CommandError("resume= goes on with one run, and without -m")
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
    directory = str(run.path.resolve()).replace("'", r"\'")
    return [f"hydra.run.dir='{directory}'", "hydra.output_subdir=null"]


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return override.partition("=")[0].lstrip("+~")


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


def register_resolvers() -> None:
    """What the files of conf/ may write as `${...}` beyond Hydra's own."""
    OmegaConf.register_new_resolver("run_suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("list_groups", list_groups, replace=True)


def list_groups() -> str:
    """Each group of conf/ with its options, a paragraph each, for the help text; the many recipes have a table."""
    paragraphs = []
    for directory in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "recipe"):
        options = ", ".join(sorted(file.stem for file in directory.glob("*.yaml")))
        indent = f"  {directory.name:<16}"
        paragraphs.append(textwrap.fill(options, width=110, initial_indent=indent, subsequent_indent=" " * len(indent)))
    return "\n".join(paragraphs)
