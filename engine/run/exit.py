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

from engine.run.console import echo, one_line, say
from engine.run.directory import RunDirectory, which_sweep
from engine.run.process import is_main_process, note_over
from engine.run.signals import Interrupted, Signals

LONGEST = 600  # characters of an answer

PATIENCE = 10  # seconds in which the first of several processes says what is wrong


def exit_with_error(error: Exception) -> NoReturn:
    """Say what is wrong in one line on standard error and exit with its status: that of a RunError, else 2.

    Of several processes one says it.
    """
    status = getattr(error, "status", 2)
    if getattr(error, "is_final", True):
        note_over(status)
    if not is_main_process() and not hasattr(error, "is_said"):
        time.sleep(PATIENCE)  # what started them ends the first as soon as another has ended, said or not
    if getattr(error, "is_said", not is_main_process()):
        raise SystemExit(status)
    said = one_line(" ".join(reason(error).split()))
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
    print(f"{program_name()}: {said}", file=sys.stderr)
    raise SystemExit(status)


def program_name() -> str:
    """What is running, as the user called it."""
    program = Path(sys.argv[0])
    return f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name


def stopped(run: RunDirectory, status: int = 128 + signal.SIGINT, *, sweep: str | None = None) -> NoReturn:
    """Say that a run, or the one in the directory `sweep`, was stopped, and how to go on; exit with `status`."""
    if status != 128 + signal.SIGTERM:  # which torch's launcher sends to all ranks where one has died
        note_over(status)
    if sweep is not None:
        say(f"stopped; the same command with {which_sweep(Path(sweep))} goes on")
    elif run.newest:
        say(f"stopped; to resume: {run.resume_command}")
    else:
        say("stopped before the first step")
    raise SystemExit(status)


@contextmanager
def stoppable(sweep: Callable[[], Path | None] = lambda: None) -> Iterator[None]:
    """Within, a signal that no run handles, as between the jobs of a sweep, ends the program with one line.

    `sweep` returns the directory of the sweep that is under way, if there is one.
    """
    try:
        with Signals():
            yield
    except Interrupted as interruption:
        if (directory := sweep()) is None:
            print(f"{program_name()}: stopped", file=sys.stderr)
        else:
            echo(f"stopped; the same command with {which_sweep(directory)} goes on")
        raise SystemExit(interruption.exit_status) from None


def reason(error: Exception) -> str:
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
