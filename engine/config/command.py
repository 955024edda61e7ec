"""Process the command line before Hydra does.

Every job is checked before torch is imported, and an error is one line; `resume=` adds the overrides of the resumed
run; the help text lists the config groups' options.
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
from engine.config.did_you_mean import CONF, own_groups
from engine.config.identity import job_directory
from engine.config.overrides import MISTAKES, jobs, key_of, parse, suggest
from engine.config.resume import resume_directory, with_restart, with_resumed
from engine.config.schema import keys_of_file
from engine.run.console import prepare_streams, restore_sigpipe
from engine.run.directory import RunDirectory
from engine.run.errors import CommandError
from engine.run.exit import exit_with_error
from engine.run.process import is_main_process, is_one_of_several, is_restarted, recorded_exit_status

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
    """Check the command line before Hydra processes it; on an error, exit with status 2 and one line.

    Returns the configurations, with the `hydra` node, of the jobs to run; empty if nothing is to run, e.g. --help.
    With `resume=`, the overrides of the resumed run are added to `sys.argv`.
    """
    if (status := recorded_exit_status()) is not None:
        raise SystemExit(status)
    prepare_streams()
    register_resolvers()
    try:
        arguments = parse_flags()
        to_run = arguments.cfg is None and arguments.info is None
        if arguments.help or arguments.hydra_help or not to_run:
            restore_sigpipe()
        if arguments.help or arguments.hydra_help:
            sys.argv[1:] = ["--help" if arguments.help else "--hydra-help"]  # ignore all other arguments
            return []
        if arguments.shell_completion:
            check_completion(arguments.overrides)
            return []
        overrides = with_restart(arguments.overrides) if is_restarted() else arguments.overrides
        with initialized(arguments.config_dir), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from Hydra and OmegaConf, about what is rejected anyway
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
    directory = resume_directory(overrides)
    if not is_main_process():  # they use rank 0's directory, and write nothing
        overrides = [word for word in overrides if key_of(word) != "hydra.run.dir"]
        directory = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    sys.argv[1:] = [*flags, *overrides, *directory]
    if arguments.multirun and config_name == "config":
        sys.argv += unnamed(overrides)
    return configs if to_run else []


def check_processes(configs: Sequence[DictConfig], config_name: str, arguments: argparse.Namespace) -> None:
    """Reject settings that do not work with several processes."""
    if config_name != "config":
        if is_one_of_several():
            raise CommandError("evaluate.py uses one process, start it without torchrun")
        return
    for config in configs:
        trainer = config.trainer
        if trainer.devices == 1 and not is_one_of_several():
            continue
        what = "torchrun" if trainer.devices == 1 else f"trainer.devices={trainer.devices}"
        if arguments.multirun:
            raise CommandError(f"{what}: each job of a sweep uses one process")
        if config.lr_find:
            raise CommandError(f"{what}: lr_find=true uses one process")
        if config.init_only:
            raise CommandError(f"{what}: init_only=true uses one process")
        if trainer.batch_size == "auto":
            raise CommandError(f"{what}: trainer.batch_size=auto supports one process only, give a number")
        if trainer.compile:
            raise CommandError(f"{what}: trainer.compile=true supports one process only")
        restarts = is_one_of_several() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
        words = {key_of(word) for word in arguments.overrides}
        if restarts and config.resume is None and "hydra.run.dir" not in words:
            raise CommandError("torchrun --max-restarts: requires hydra.run.dir=..., a fixed directory for restarts")


def parse_flags() -> argparse.Namespace:
    """Parse the arguments with Hydra's parser. Raises CommandError for unknown or incompatible flags."""
    parser = get_args_parser()
    parser.error = refuse_flag
    arguments = parser.parse_intermixed_args()
    if arguments.config_name or arguments.config_path:
        raise CommandError("--config-name and --config-path: there is one configuration; --config-dir adds options")
    if arguments.experimental_rerun:
        raise CommandError("--experimental-rerun runs a pickle file, which is not supported; use resume=")
    if arguments.run + arguments.multirun + (arguments.cfg is not None) + (arguments.info is not None) > 1:
        raise CommandError("--run, --multirun, --cfg and --info: only one of them can be given")
    if (arguments.resolve or arguments.package) and arguments.cfg is None:
        raise CommandError("--resolve and --package belong to --cfg")
    return arguments


def refuse_flag(message: str) -> NoReturn:
    """Raise CommandError with argparse's message; for an override typed like a flag, with the right syntax."""
    unknown = re.fullmatch(r"unrecognized arguments: (--?([\w.]+).*)", message, re.DOTALL)
    if unknown:
        message = f"{unknown[1]}: no such flag; overrides have no dashes, KEY=VALUE{suggest(unknown[2])}"
    raise CommandError(message)


def check_completion(overrides: Sequence[str]) -> None:
    """Reject invalid arguments of `--shell-completion`."""
    shells = ("bash", "fish", "zsh")
    if len(overrides) != 1 or not re.fullmatch(rf"(install|uninstall|query)=({'|'.join(shells)})", overrides[0]):
        raise CommandError(f"--shell-completion: give install=, uninstall= or query= with one of {', '.join(shells)}")


@contextmanager
def initialized(config_dir: str | None) -> Iterator[None]:
    """Initialise Hydra to compose from conf/ and `--config-dir`, as in the run."""
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
    """Reject a directory that is not writable, that holds another run, or that several jobs would share."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    for config in configs:
        directory = Path(OmegaConf.select(config, key))
        nearest = next(path for path in (directory, *directory.parents) if path.is_dir())
        try:
            tempfile.TemporaryDirectory(dir=nearest).cleanup()
        except OSError as error:
            raise CommandError(f"{key}={directory}: {nearest} cannot be written to ({error.strerror})") from None
        if not multirun and config.resume is None and (directory / "checkpoints" / "last.pt").exists():
            raise CommandError(f"{key}={directory}: already contains a run; choose another, or use resume=")
    subdirectories = [OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] for config in configs]
    same = [name for name in subdirectories if "${" not in name and subdirectories.count(name) > 1]
    if multirun and same:
        raise CommandError(f"hydra.sweep.subdir={same[0]}: each job needs a directory of its own")


def unnamed(overrides: Sequence[str]) -> list[str]:
    """The override that excludes settings common to all jobs of a sweep from their directory names."""
    same = [word.key_or_group for word in map(parse, overrides) if not word.is_sweep_override()]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(repr(key) for key in same)}]"]


def run_directory(config: DictConfig, hydra: DictConfig) -> RunDirectory:
    """The run directory, with the overrides and configuration to save there."""
    composed = {"config.yaml": OmegaConf.to_yaml(config), "hydra.yaml": OmegaConf.to_yaml({"hydra": hydra})}
    return RunDirectory(Path(hydra.runtime.output_dir), words=hydra.overrides.task, composed=composed)


def register_resolvers() -> None:
    """Register the OmegaConf resolvers that conf/ uses."""
    OmegaConf.register_new_resolver("sweep_directory", sweep_directory, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_directory", job_directory, replace=True)
    OmegaConf.register_new_resolver("run_suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("list_groups", list_groups, replace=True)


def sweep_directory(name: str | None) -> str:
    """The directory of a sweep in multirun/: its name, or its start time."""
    return name or f"{time.strftime('%Y-%m-%d/%H-%M-%S')}-{secrets.token_hex(2)}"


def list_groups() -> str:
    """Each config group with its options, a paragraph each, for the help text; recipes have their own table."""
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
