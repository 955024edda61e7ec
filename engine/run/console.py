"""Where a program says what it does: standard output, also after its reader has gone."""

import logging
import os
import signal
import sys
import textwrap
from typing import TextIO

from engine.run.process import is_main_process

say = logging.getLogger("cifar").info


def echo(text: str) -> None:
    """Print lines from where no logging is set up; once nobody reads them (`| head`), nothing."""
    try:
        print(text, flush=True)
    except OSError:
        write_to_nowhere(sys.stdout)


def write_to_nowhere(stream: TextIO) -> None:
    """From now on nothing comes of what is written there, and what could not be written is no mistake at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end_once_unread() -> None:
    """From now on end without a word, as other programs do, where something is printed that nobody reads any more."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def one_line(text: str) -> str:
    """Text as one line that a terminal shows and does not obey: what cannot be printed is written out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class Console(logging.StreamHandler):
    """Writes to a stream; once nobody reads that any more (`train.py | head`), to nowhere: the run goes on.

    `label` stands in front of every line where several jobs write to the same terminal. Of several processes that
    compute one run only the first is heard.
    """

    label = ""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, each with the label."""
        return textwrap.indent(super().format(record), Console.label)

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        """Called by logging before a line is written."""
        return is_main_process() and super().filter(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging where a line could not be written."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            write_to_nowhere(self.stream)
        else:
            super().handleError(record)


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
