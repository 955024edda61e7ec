"""Signals that stop a run. No torch here, so that the handlers are installed before its slow import.

In a submitit job, submitit handles SIGUSR2, which SLURM sends before the time limit or preemption, and requeues the job
(scontrol requeue). The run must save its checkpoint first, so the signal is caught here and passed on afterwards.
submitit ignores SIGTERM, which scancel and preemption send; the run saves a checkpoint and exits.
"""

import signal
import time
from types import FrameType

# Ctrl-C; kill and cluster managers; SLURM before a job's time limit (two); a closed terminal.
# Windows has the first two.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")

STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

DUPLICATE = 0.5  # seconds within which a second signal is a duplicate, sent to the process group and forwarded as well


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop. Not an Exception, so that libraries do not catch it."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_status = 128 + number

    def pass_on(self) -> None:
        """Call the previous handler of the signal, e.g. submitit's, which may requeue the job."""
        handler = signal.getsignal(self.number)
        is_own = handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), Signals)
        if callable(handler) and not is_own:
            handler(self.number, None)


class Signals:
    """Within this context a signal raises Interrupted immediately; ignored signals (nohup) stay ignored."""

    def __enter__(self) -> "Signals":
        handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        raise Interrupted(number)


class StopRequest(Signals):
    """Within this context the first signal is stored and checked after every step; a second one raises Interrupted."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > DUPLICATE:
            super()._handle(number, frame)


def raise_if_signalled(number: int | None) -> None:
    """Raise Interrupted if a signal was received."""
    if number is not None:
        raise Interrupted(number)
