"""Signals in a sweep with hydra/launcher=joblib: in the main process, and in the worker processes. No torch here.

The main process forwards the first signal to all workers as SIGTERM; each worker then stops its job with a checkpoint
and starts no other. Workers ignore all other signals, which a terminal sends to every process at once.
"""

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from engine.run.console import echo
from engine.run.directory import DirectoryError, RunDirectory
from engine.run.signals import STOPPING, Interrupted, StopRequest


class ForwardedStop(StopRequest):
    """Within this context, the first signal is recorded and sent to the workers; a second one raises Interrupted."""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = self.signal is None
        super()._handle(number, frame)
        if is_first:
            echo("\nthe jobs write their checkpoints and end")
            for worker in multiprocessing.active_children():
                worker.terminate()


class Worker:
    """The state of a worker process: whether a job is running, and whether a stop was requested."""

    is_busy = False
    is_stopped = False

    @classmethod
    def stop(cls, *_: object) -> None:
        """The handler of SIGTERM: exit the job, which has written its checkpoint or has not started to train."""
        cls.is_stopped = True
        if cls.is_busy:
            raise SystemExit(Interrupted(signal.SIGTERM).exit_status)


class WorkerTask:
    """A task function that joblib pickles and sends to a worker, where it handles the signals.

    With n_jobs=1 joblib runs the jobs in the main process. Nothing is unpickled then, and no handler is installed.
    """

    def __init__(self, task_function: Callable[[Any], Any]):
        self.task_function = task_function

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called in a worker, before it composes the job's config: from then on a SIGTERM does not kill it."""
        for number in STOPPING:
            signal.signal(number, Worker.stop if number == signal.SIGTERM else signal.SIG_IGN)
        self.__dict__.update(state)

    def __call__(self, config: Any) -> Any:
        """Run the job, unless a stop was requested."""
        try:
            Worker.is_busy = True
            if not Worker.is_stopped:
                return self.task_function(config)
        except SystemExit:
            if not Worker.is_stopped:
                raise
        finally:
            Worker.is_busy = False
        run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
        with suppress(DirectoryError), run.in_use():
            pass  # on exit this removes the directory if it only holds what Hydra wrote
        return None
