"""The launcher of `hydra/launcher=joblib`: the installed one, except that a signal stops its jobs with a checkpoint.

When joblib is interrupted it kills its workers in the middle of an epoch. Here the main process asks each worker to
stop its job, and waits for all of them (engine/sweep/joblib_workers.py).

Hydra imports this module at every start, so joblib is imported only when jobs are launched.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from hydra.core.utils import JobReturn

from engine.run.signals import StopRequest, raise_if_signalled
from engine.sweep.joblib_workers import ForwardedStop, WorkerTask

try:
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
except ImportError:  # not installed: engine/config/did_you_mean.py refuses hydra/launcher=joblib
    from hydra.plugins.launcher import Launcher as JoblibLauncher


class UntilStopped(Sequence):
    """The jobs of a sweep; iteration ends once a stop is requested, so that joblib dispatches no further job."""

    def __init__(self, jobs: Sequence[Sequence[str]], stop: StopRequest):
        self.jobs, self.stop = jobs, stop

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: Any) -> Any:
        return self.jobs[index]

    def __iter__(self) -> Iterator[Sequence[str]]:
        return takewhile(lambda _: self.stop.signal is None, self.jobs)


class CheckpointingJoblibLauncher(JoblibLauncher):
    """Runs the jobs of a sweep in joblib's worker processes; a signal stops each of them with a checkpoint."""

    def setup(self, *, task_function: Any, **context: Any) -> None:
        """Called by Hydra with what a job needs."""
        super().setup(task_function=WorkerTask(task_function), **context)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by the sweeper: run the jobs and return their results. Raises Interrupted."""
        with ForwardedStop() as stop:
            try:
                returned = super().launch(UntilStopped(job_overrides, stop), initial_job_idx)
            except Exception:  # joblib's, if a worker exited before its first job
                if stop.signal is None:
                    raise
        raise_if_signalled(stop.signal)
        return returned
