"""Jobs of a sweep beside each other in joblib's worker processes, hydra/launcher=joblib. No torch here.

When joblib is interrupted it kills its workers, in the middle of an epoch; when it is killed, they work on and nobody
waits for them. So here the process that waits heeds the signals: it asks each worker to end its job with a checkpoint,
and waits until all have. What a terminal sends to all processes alike the workers leave to it.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn

from engine.run.console import echo
from engine.run.signals import STOPPING, Interrupted, StopRequest, raise_if_signalled


class Worker:
    """What a worker knows: whether it is at a job, and whether it was asked to stop."""

    busy = False
    asked = False

    @classmethod
    def stop(cls, *_: object) -> None:
        """End the job, which has written its checkpoint by now or not begun to train, and begin no other."""
        cls.asked = True
        if cls.busy:
            raise SystemExit(Interrupted(signal.SIGTERM).exit_status)


class HandOn(StopRequest):
    """Within, a signal is noted and handed on to the workers as SIGTERM; a second one raises Interrupted."""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = self.signal is None
        super()._handle(number, frame)
        if is_first:
            echo("\nthe jobs write their checkpoints and end")
            for worker in multiprocessing.active_children():
                worker.terminate()


def attend() -> None:
    """Let joblib's launcher, when it is asked to stop, end its jobs with checkpoints and raise Interrupted."""
    from hydra_plugins.hydra_joblib_launcher import _core
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

    launch = JoblibLauncher.launch

    def attended_launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        with HandOn() as asked:
            try:
                returned = launch(launcher, job_overrides, initial_job_idx)
            except Exception:  # of joblib, where a worker has ended before it was at its first job
                if asked.signal is None:
                    raise
        raise_if_signalled(asked.signal)
        return returned

    JoblibLauncher.launch, _core.execute_job = attended_launch, execute


def execute(*arguments: Any) -> JobReturn:
    """In a worker: one job, as the launcher has it, or nothing if the worker was asked to stop."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    for number in STOPPING:
        signal.signal(number, Worker.stop if number == signal.SIGTERM else signal.SIG_IGN)
    try:
        Worker.busy = True
        if not Worker.asked:
            return execute_job(*arguments)
    except SystemExit:
        if not Worker.asked:
            raise
    finally:
        Worker.busy = False
    return JobReturn()
