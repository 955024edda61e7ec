"""Where a program says what it does: standard output, also after its reader has gone."""

import logging
import os
import sys

say = logging.getLogger("cifar").info


def one_line(text: str) -> str:
    """Text as one line that a terminal shows and does not obey: what cannot be printed is written out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class Console(logging.StreamHandler):
    """Writes to a stream; once nobody reads that any more (`train.py | head`), to nowhere: the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging where a line could not be written."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)
