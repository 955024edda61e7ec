"""The command line, in front of Hydra's own handling of it.

Every job is checked before torch is imported, and a mistake is answered in one line; the settings
of a run named by `resume=` are put behind it; the help text lists the groups' options.
"""

import argparse
import os
import re
import secrets
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from engine.config.check import check
from engine.config.identity import job_directory
from engine.config.options import CONF, own_groups
from engine.config.overrides import MISTAKES, jobs, key_of, meant, parse
from engine.config.resume import going_on, in_its_own_directory, with_resumed
from engine.config.schema import keys_of_file
from engine.run.console import end_once_unread
from engine.run.directory import RunDirectory
from engine.run.errors import CommandError
from engine.run.exit import exit_with_error
from engine.run.process import has_begun_again, is_main_process, is_one_of_several, over

# What a regularizer acts on, by the section of the configuration that it sets; for the help text.
KINDS = {
    "loss": "loss",
    "model": "network",
    "augmentation": "images",
    "mixing": "images",
    "optimizer": "weights",
    "averages": "weights",
    "step.max_weight_norm": "weights",
    "step": "optimizer",
}


def command_line(config_name: str) -> list[DictConfig]:
    """Check the command line before Hydra acts on it; exit with status 2 and one line where it is wrong.

    The configurations, with Hydra's own part, of the jobs that are to run; none where something is only looked at.
    Behind `resume=`, `sys.argv` is given the resumed run's own settings.
    """
    if (status := over()) is not None:
        raise SystemExit(status)
    register_resolvers()
    try:
        arguments = parse_flags()
        to_run = arguments.cfg is None and arguments.info is None
        if arguments.help or arguments.hydra_help or not to_run:
            end_once_unread()
        if arguments.help or arguments.hydra_help:
            sys.argv[1:] = ["--help" if arguments.help else "--hydra-help"]  # whatever else was typed
            return []
        if arguments.shell_completion:
            check_completion(arguments.overrides)
            return []
        overrides = going_on(arguments.overrides) if has_begun_again() else arguments.overrides
        with initialized(arguments.config_dir), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's and OmegaConf's, of what is refused anyway
            if config_name == "config":
                overrides = with_resumed(overrides, multirun=arguments.multirun)
            configs = [check(config_name, job, to_run=to_run) for job in jobs(overrides, multirun=arguments.multirun)]
        if arguments.package and OmegaConf.select(configs[0], arguments.package) is None:
            raise CommandError(f"--package {arguments.package}: no such key")
        if to_run:
            check_processes(configs, config_name, arguments)
        if to_run and config_name == "config" and is_main_process():
            check_directories(configs, multirun=arguments.multirun)
    except MISTAKES as error:
        exit_with_error(error)
    flags = [argument for argument in sys.argv[1:] if argument not in arguments.overrides]
    directory = in_its_own_directory(overrides)
    if not is_main_process():  # the first rank's directory is theirs, and they write nothing
        overrides = [word for word in overrides if key_of(word) != "hydra.run.dir"]
        directory = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    sys.argv[1:] = [*flags, *overrides, *directory]
    if arguments.multirun and config_name == "config":
        sys.argv += unnamed(overrides)
    return configs if to_run else []


def check_processes(configs: Sequence[DictConfig], config_name: str, arguments: argparse.Namespace) -> None:
    """Refuse what a run in several processes cannot be."""
    if config_name != "config":
        if is_one_of_several():
            raise CommandError("this computes in one process, start it without torchrun")
        return
    for config in configs:
        trainer = config.trainer
        if trainer.devices == 1 and not is_one_of_several():
            continue
        what = "torchrun" if trainer.devices == 1 else f"trainer.devices={trainer.devices}"
        if arguments.multirun:
            raise CommandError(f"{what}: each job of a sweep has one process")
        if config.lr_find:
            raise CommandError(f"{what}: lr_find=true makes its test in one process")
        if config.init_only:
            raise CommandError(f"{what}: init_only=true keeps weights, which one process can")
        if trainer.batch_size == "auto":
            raise CommandError(f"{what}: trainer.batch_size=auto tries what fits one process, give a number")
        if trainer.compile:
            raise CommandError(f"{what}: trainer.compile=true is for one process")
        restarts = is_one_of_several() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
        words = {key_of(word) for word in arguments.overrides}
        if restarts and config.resume is None and "hydra.run.dir" not in words:
            raise CommandError(
                "torchrun --max-restarts: hydra.run.dir=... must name a directory that restarts find again"
            )


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
    """Refuse a directory that cannot be written to, that holds another run, or that several jobs would share."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    for config in configs:
        place = Path(OmegaConf.select(config, key))
        nearest = next(directory for directory in (place, *place.parents) if directory.is_dir())
        try:
            tempfile.TemporaryDirectory(dir=nearest).cleanup()
        except OSError as error:
            raise CommandError(f"{key}={place}: nothing can be written to {nearest} ({error.strerror})") from None
        if not multirun and config.resume is None and (place / "checkpoints" / "last.pt").exists():
            raise CommandError(f"{key}={place}: there are results in it already; choose another, or go on with resume=")
    subdirectories = [OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] for config in configs]
    same = [name for name in subdirectories if "${" not in name and subdirectories.count(name) > 1]
    if multirun and same:
        raise CommandError(f"hydra.sweep.subdir={same[0]}: each job needs a directory of its own")


def unnamed(overrides: Sequence[str]) -> list[str]:
    """What keeps the settings that all jobs of a sweep have out of the names of their directories."""
    same = [word.key_or_group for word in map(parse, overrides) if not word.is_sweep_override()]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(repr(key) for key in same)}]"]


def run_directory(config: DictConfig, hydra: DictConfig) -> RunDirectory:
    """Where this run's files lie, and what is noted there of its settings."""
    composed = {"config.yaml": OmegaConf.to_yaml(config), "hydra.yaml": OmegaConf.to_yaml({"hydra": hydra})}
    return RunDirectory(Path(hydra.runtime.output_dir), words=hydra.overrides.task, composed=composed)


def register_resolvers() -> None:
    """What the files of conf/ may write as `${...}` beyond Hydra's own."""
    OmegaConf.register_new_resolver("sweep_directory", sweep_directory, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_directory", job_directory, replace=True)
    OmegaConf.register_new_resolver("run_suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("list_groups", list_groups, replace=True)


def sweep_directory(name: str | None) -> str:
    """The directory of a sweep below multirun/: its name, or the time at which it begins."""
    return name or f"{time.strftime('%Y-%m-%d/%H-%M-%S')}-{secrets.token_hex(2)}"


def list_groups() -> str:
    """Each group of conf/ with its options, a paragraph each, for the help text; the many recipes have a table."""
    paragraphs = []
    for group in sorted({*own_groups()} - {"recipe"}):
        kinds: dict[str, list[str]] = {}
        for file in sorted((CONF / group).glob("*.yaml")):
            kinds.setdefault(f"{kind_of(file)}: " if group == "regularization" else "", []).append(file.stem)
        indent = f"  {group:<16}"
        for kind, options in sorted(kinds.items()):
            text = kind + ", ".join(options)
            paragraphs.append(textwrap.fill(text, width=110, initial_indent=indent, subsequent_indent=" " * 18))
            indent = " " * 18
    return "\n".join(paragraphs)


def kind_of(regularizer: Path) -> str:
    """What a regularizer acts on, from the section of the configuration at the end of its file."""
    section = keys_of_file(regularizer)[-1][0]
    return KINDS.get(".".join(section)) or KINDS.get(section[0], "training")
