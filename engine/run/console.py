"""Console output: a stream that is closed or full, or cannot encode a character, never fails a run."""

import io
import logging
import os
import signal
import sys
import textwrap
from contextlib import suppress
from typing import TextIO

from engine.run.process import is_main_process

logger = logging.getLogger("cifar")


def prepare_streams() -> None:
    """Replace closed output streams by the null device, and escape characters that a stream cannot encode.

    A stream that is closed when the program starts (`2>&-`) is None. Its descriptor is taken at once; the next file to
    be opened would get it otherwise, and what libraries print would end up there.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
        elif isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a file that has become a pipe
                stream.reconfigure(errors="backslashreplace")


def echo(text: str, *, error: bool = False) -> None:
    """Print lines to standard output or, with `error`, standard error; a stream that cannot be written is ignored."""
    prepare_streams()
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        redirect_to_devnull(stream)


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
    """A stream handler that survives a closed pipe (`train.py | head`) or a full disk; the main process alone writes.

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
        if isinstance(sys.exc_info()[1], OSError):
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
