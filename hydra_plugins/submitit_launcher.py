"""The launchers of `hydra/launcher=submitit_slurm` and `submitit_local`: the installed ones with a launch of their own.

The installed `launch` ends with a traceback if one job is killed, and leaves the local jobs to a terminal's Ctrl-C,
which kills them without a checkpoint. `launch` is therefore overridden as a whole, with submitit's public API. How jobs
handle signals is described in engine/run/signals.py.

Hydra imports this module at every start, so submitit is imported only when jobs are launched.
"""

import os
import signal
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from engine.run.console import echo
from engine.run.exit import exit_with_error
from engine.run.signals import Interrupted, StopRequest, raise_if_signalled
from engine.sweep.jobs import Table

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # not installed: engine/config/did_you_mean.py refuses hydra/launcher=submitit_...
    from hydra.plugins.launcher import Launcher as BaseSubmititLauncher

ROOT = Path(__file__).resolve().parents[1]

FROM_TERMINAL = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}


class CheckpointingSubmititLauncher(BaseSubmititLauncher):
    """What both launchers share. A job without a result is noted in Table.lost; the sweep continues without it."""

    cluster: str

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper: submit the jobs, wait for them and return their results. Raises Interrupted."""
        from submitit.core.utils import FailedJobError

        directory = self.config.hydra.sweep.dir
        Path(directory).mkdir(parents=True, exist_ok=True)
        path = [str(ROOT), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # a job is started by submitit, not by train.py
        echo(f"{len(job_overrides)} jobs are submitted; their output is in {directory}/.submitit/")
        jobs = []
        try:
            with StopRequest() as stop:  # a signal waits until all jobs are known
                try:
                    jobs = self.submit(job_overrides, initial_job_idx)
                except (FailedJobError, ValueError) as error:  # refused by sbatch or by submitit
                    if stop.signal is None:
                        exit_with_error(error)
            raise_if_signalled(stop.signal)
            return [result(job) for job in jobs]
        except Interrupted as interruption:
            self.stop(jobs, interruption)

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "list[Job]":
        """Submit a job for each list of overrides; each calls this launcher with the arguments of its __call__."""
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        state = Singleton.get_state()
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        return self.executor().map_array(self, *zip(*arguments, strict=True))

    def executor(self) -> "AutoExecutor":
        """Submitit's executor with the keys of hydra.launcher; those of one cluster only are prefixed with its name."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit import AutoExecutor

        shared = {field.name for field in fields(BaseQueueConf)}
        options = {key if key in shared else f"{self.cluster}_{key}": value for key, value in self.params.items()}
        at_creation = {"folder": options.pop("submitit_folder")}
        at_creation |= {key: options.pop(key) for key in [f"{self.cluster}_max_num_timeout"] if key in options}
        executor = AutoExecutor(cluster=self.cluster, **at_creation)
        executor.update_parameters(**options)
        return executor

    @abstractmethod
    def stop(self, jobs: "Sequence[Job]", interruption: Interrupted) -> NoReturn:
        """End the sweep after a signal."""


class CheckpointingSlurmLauncher(CheckpointingSubmititLauncher):
    """Runs the jobs of a sweep on a SLURM cluster; a signal ends the waiting, but not the jobs."""

    cluster = "slurm"

    def stop(self, jobs: "Sequence[Job]", interruption: Interrupted) -> NoReturn:
        """Exit; the jobs stay in SLURM's queue."""
        directory = self.config.hydra.sweep.dir
        echo(f"\nno longer waiting for the jobs; their table: python -m engine.sweep {directory}")
        raise SystemExit(interruption.exit_status) from None


class CheckpointingLocalLauncher(CheckpointingSubmititLauncher):
    """Runs all jobs of a sweep at once on this machine; a signal stops each of them with a checkpoint."""

    cluster = "local"

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "list[Job]":
        """Start the jobs, each with its share of the CPU cores."""
        import joblib

        os.environ.setdefault("OMP_NUM_THREADS", str(max(joblib.cpu_count() // len(job_overrides), 1)))
        with blocked(FROM_TERMINAL):
            return super().submit(job_overrides, initial_job_idx)

    def stop(self, jobs: "Sequence[Job]", interruption: Interrupted) -> NoReturn:
        """Ask the jobs to stop and wait until they have."""
        echo("\nthe jobs write their checkpoints and end")
        for job in jobs:
            if not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)  # the process that forwards it; cancel() sends SIGINT
        for job in jobs:
            job.wait()
        raise interruption


@contextmanager
def blocked(signals: set[int]) -> Iterator[None]:
    """Within this context these signals stay pending; processes that are started have them blocked for good.

    The terminal's Ctrl-C then reaches the main process only, which asks the jobs to stop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def result(job: "Job") -> JobReturn:
    """What a job returned; for one that was killed or failed, an empty result, and a note in Table.lost."""
    from submitit.core.utils import UncompletedJobError

    try:
        return job.results()[0]
    except UncompletedJobError:
        Table.lost.append(f"{job.job_id} ({os.path.relpath(job.paths.stderr)})")
        return JobReturn(status=JobStatus.COMPLETED)
