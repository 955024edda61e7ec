"""Console output that survives a closed pipe."""

import logging
import os
import signal
import sys
import textwrap
from typing import TextIO

from engine.run.process import is_main_process

logger = logging.getLogger("cifar")


def echo(text: str) -> None:
    """Print lines where logging is not set up; a closed pipe (`| head`) is ignored."""
    try:
        print(text, flush=True)
    except OSError:
        redirect_to_devnull(sys.stdout)


def redirect_to_devnull(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that pending output raises no error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def restore_sigpipe() -> None:
    """Let a closed pipe end the program silently, as in other command-line programs."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def one_line(text: str) -> str:
    """Text as one line; unprintable characters, which may be terminal control codes, are escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class Console(logging.StreamHandler):
    """A stream handler that continues after a closed pipe (`train.py | head`), and writes on the main process only.

    `label` prefixes every line when several jobs write to the same terminal.
    """

    label = ""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, each prefixed with the label."""
        return textwrap.indent(super().format(record), Console.label)

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        """Called by logging before a line is written."""
        return is_main_process() and super().filter(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging after a failed write."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            redirect_to_devnull(self.stream)
        else:
            super().handleError(record)


def percent(share: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
