"""How a program ends: one line for a mistake, an exit status for a signal, and how to resume. No torch here."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from engine.run.console import echo, logger, one_line
from engine.run.directory import RunDirectory, sweep_override
from engine.run.process import is_main_process, record_exit_status
from engine.run.signals import Interrupted, Signals

MAX_MESSAGE = 600  # characters of an error message

MAIN_GRACE = 10  # seconds that other ranks wait for the main process to report the error


def exit_with_error(error: Exception) -> NoReturn:
    """Print the error in one line to standard error and exit with its status: that of a RunError, else 2.

    Of several processes one prints it.
    """
    status = getattr(error, "status", 2)
    if getattr(error, "is_final", True):
        record_exit_status(status)
    if not is_main_process() and not hasattr(error, "is_reported"):
        time.sleep(MAIN_GRACE)  # the launcher ends the main process as soon as another rank exits
    if getattr(error, "is_reported", not is_main_process()):
        raise SystemExit(status)
    message = one_line(" ".join(reason(error).split()))
    if len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"
    echo(f"{program_name()}: {message}", error=True)
    raise SystemExit(status)


def program_name() -> str:
    """The program's name as the user typed it."""
    program = Path(sys.argv[0])
    return f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name


def exit_stopped(run: RunDirectory, status: int = 128 + signal.SIGINT, *, sweep: str | None = None) -> NoReturn:
    """Log that a run, or the sweep in the directory `sweep`, was stopped and how to resume; exit with `status`."""
    if status != 128 + signal.SIGTERM:  # torch's launcher sends it to all ranks after one has died
        record_exit_status(status)
    if sweep is not None:
        logger.info(f"stopped; to resume: the same command with {sweep_override(Path(sweep))}")
    elif run.newest:
        logger.info(f"stopped; to resume: {run.resume_command}")
    else:
        logger.info("stopped before the first step")
    raise SystemExit(status)


@contextmanager
def exit_on_signal(sweep: Callable[[], Path | None] = lambda: None) -> Iterator[None]:
    """Within this context, a signal that no run handles ends the program with one line, e.g. between jobs of a sweep.

    `sweep` returns the directory of the running sweep, if there is one.
    """
    try:
        with Signals():
            yield
    except Interrupted as interruption:
        if (directory := sweep()) is None:
            echo(f"{program_name()}: stopped", error=True)
        else:
            echo(f"stopped; to resume: the same command with {sweep_override(directory)}")
        raise SystemExit(interruption.exit_status) from None


def reason(error: Exception) -> str:
    """The message of an exception, or that of its cause."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "nested too deeply, or self-referential"
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{error}: {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
