"""The command line, in front of Hydra's own handling of it.

Every job is checked before torch is imported, and a mistake is answered in one line; the settings
of a run named by `resume=` are put behind it; the help text lists the groups' options.
"""

import re
import secrets
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
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

from engine.check import CONF, CommandError, check
from engine.rundir import RunDirectory

# What may differ from a recipe without another accuracy to be expected.
HARMLESS = {"recipe", "dataset", "dataset.root", "dataset.mirrors", "seed", "resume", "resume_force"}
HARMLESS |= {
    f"trainer.{key}" for key in ("device", "precision", "memory_format", "compile", "deterministic", "eval_batch_size")
}
HARMLESS |= {"trainer.clean_train_accuracy", "model.checkpointing"}
MISTAKES = (CommandError, HydraException, OmegaConfBaseException)


def command_line(config_name: str) -> None:
    """Check the command line before Hydra acts on it; exit with status 2 and one line where it is wrong.

    Behind `resume=`, `sys.argv` is given the resumed run's own settings.
    """
    register_resolvers()
    arguments = get_args_parser().parse_args()
    if arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion:
        return
    try:
        overrides = with_resumed(arguments.overrides, multirun=arguments.multirun)
        if arguments.config_name or arguments.config_path:
            raise CommandError("--config-name and --config-path: there is one configuration; --config-dir adds options")
        with initialized(arguments.config_dir):
            for job in jobs(overrides, multirun=arguments.multirun):
                check(config_name, job)
    except MISTAKES as error:
        leave(error)
    flags = [argument for argument in sys.argv[1:] if argument not in arguments.overrides]
    sys.argv[1:] = [*flags, *overrides]


def leave(error: Exception | str, status: int = 2) -> NoReturn:
    """Say what is wrong in one line on standard error and exit with `status`."""
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(status)


def stopped(run: RunDirectory, status: int = 128 + signal.SIGINT) -> NoReturn:
    """Say that a run was stopped and, where something is saved, how to go on; exit with `status`."""
    print(f"stopped; to go on: {run.to_go_on}" if run.newest else "stopped before the first step", flush=True)
    raise SystemExit(status)


@contextmanager
def initialized(config_dir: str | None) -> Iterator[None]:
    """Hydra, ready to compose from conf/ and from the directory of `--config-dir`, as it will be in the run."""
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise CommandError(f"--config-dir={config_dir}: no such directory")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
    Hydra.create_main_hydra2(task_name="check", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def parse(override: str) -> Override:
    """One argument as Hydra reads it. Raises CommandError for what it cannot read."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        raise CommandError(
            f"{override}: this is not KEY=VALUE; a value with special characters wants quotes of its own, "
            "'KEY=\"VALUE\"'"
        ) from None
    if not parsed.key_or_group:
        raise CommandError(f"{override}: the key is missing")
    return parsed


def jobs(overrides: Sequence[str], *, multirun: bool) -> Iterator[list[Override]]:
    """The overrides of each job: of a sweep, every combination of its values."""
    choices: list[list[Override]] = []
    for override in map(parse, overrides):
        if override.is_sweep_override() and not multirun:
            raise CommandError(f"{override.input_line}: several values make a sweep, which wants -m")
        if override.is_sweep_override() and override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([parse(f"{key}={value}") for value in override.sweep_string_iterator()])
        else:
            choices.append([override])
    return (list(job) for job in product(*choices))


def with_resumed(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides as they are or, behind `resume=`, those of the resumed run and then the ones given now."""
    given = {key_of(override): override for override in overrides}
    if given.get("resume", "resume=null") == "resume=null":
        return list(overrides)
    if multirun:
        raise CommandError("resume= goes on with one run: leave -m out")
    run = RunDirectory(Path(str(parse(given["resume"]).value())).expanduser())
    if not run.path.is_dir():
        raise CommandError(f"resume={run}: no such directory")
    if not (run.newest and run.overrides.is_file()):
        raise CommandError(f"resume={run}: there is no checkpoint to go on from ({run.last} does not exist)")
    saved = [override for override in yaml.safe_load(run.overrides.read_text()) if key_of(override) not in given]
    directory = str(run.path.resolve()).replace("'", r"\'")
    return [*saved, *overrides, f"hydra.run.dir='{directory}'", "hydra.output_subdir=null"]


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
