"""Signals that ask a run to stop. No torch here, so that they are heeded from the beginning.

In a job that submitit has begun, submitit heeds SIGUSR2, which SLURM sends before the time is up or, where the cluster
is set up so, before it preempts the job: submitit has it begin again (scontrol requeue). The run must have written its
checkpoint by then, so the signal is caught here first and passed on afterwards. At SIGTERM, which scancel and
preemption send, submitit does nothing; the run ends with a checkpoint.
"""

import signal
import time
from types import FrameType

# Ctrl-C; what kill and cluster managers send; what SLURM sends before a job's time is up; what a closed terminal sends.
# Windows has the first two.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")

STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

SAME = 0.5  # seconds within which two signals are one request, that of a group of processes which also is handed on


class Interrupted(KeyboardInterrupt):
    """A signal asked the run or the program to stop. No Exception, which a library might take for one of its own."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_status = 128 + number

    def pass_on(self) -> None:
        """Give the signal to whoever heeded it before the run did, as submitit, which may have the job begin again."""
        handler = signal.getsignal(self.number)
        is_own = handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), Signals)
        if callable(handler) and not is_own:
            handler(self.number, None)


class Signals:
    """Within this context a signal raises Interrupted at once; one that was ignored, as by nohup, stays so."""

    def __enter__(self) -> "Signals":
        heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        raise Interrupted(number)


class StopRequest(Signals):
    """Within this context a signal leaves a note, which training looks at after every step; a second one raises."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > SAME:
            super()._handle(number, frame)


def raise_if_signalled(number: int | None) -> None:
    """Raise Interrupted if there is a signal."""
    if number is not None:
        raise Interrupted(number)
