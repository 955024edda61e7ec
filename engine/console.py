"""Where a program says what it does: standard output, also after its reader has gone."""

import logging
import os
import sys

from engine.rank import leads

say = logging.getLogger("cifar").info


class Console(logging.StreamHandler):
    """Writes to a stream; once nobody reads that any more (`train.py | head`), to nowhere: the run goes on.

    Of several processes that compute one run only the first is heard.
    """

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        """Called by logging before a line is written."""
        return leads() and super().filter(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging where a line could not be written."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)
