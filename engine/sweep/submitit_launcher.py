"""Jobs of a sweep that submitit hands to SLURM, or to processes of this machine. No torch here.

hydra/launcher=submitit_slurm or submitit_local. What is said of the signals is in engine/run/signals.py.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from engine.run.console import echo
from engine.run.signals import Interrupted

ROOT = Path(__file__).resolve().parents[2]


class LocalJobs:
    """What submitit's local executor begins its jobs with, in place of the module `subprocess`.

    They are out of the terminal's reach: at Ctrl-C submitit's processes would each end with a traceback. Here they are
    asked to stop, and hand that on.
    """

    def __init__(self) -> None:
        self.begun: list[subprocess.Popen] = []

    def Popen(self, command: Any, **options: Any) -> subprocess.Popen:
        """Begin a job."""
        self.begun.append(subprocess.Popen(command, start_new_session=True, **options))
        return self.begun[-1]

    def stop(self) -> None:
        """End the jobs, each with a checkpoint, and wait until they have ended."""
        echo("\nthe jobs write their checkpoints and end")
        for process in self.begun:
            process.terminate()
        for process in self.begun:
            process.wait()


def attend(lost: list[str]) -> None:
    """Let submitit's launchers find this program, and end with its table whatever becomes of the jobs.

    A job that was stopped or killed has no result to hand back, at which the launcher would end with a traceback
    while others still run. Here it is noted in `lost` instead, with the file that holds what it said.
    """
    import joblib
    import submitit.local.local
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
    from submitit import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    launch, results, here = BaseSubmititLauncher.launch, Job.results, LocalJobs()
    submitit.local.local.subprocess = here

    def attended_launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        directory = launcher.config.hydra.sweep.dir
        path = [str(ROOT), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # jobs begin with another program than this
        if launcher._EXECUTOR == "local":  # which begins all jobs at once
            os.environ.setdefault("OMP_NUM_THREADS", str(max(joblib.cpu_count() // len(job_overrides), 1)))
        echo(f"{len(job_overrides)} jobs are handed over; what they say is in {directory}/.submitit/")
        try:
            return launch(launcher, job_overrides, initial_job_idx)
        except (FailedJobError, ValueError) as error:  # sbatch refuses, or submitit does
            print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except Interrupted as interruption:
            if here.begun:
                here.stop()
                raise  # to which the program says how to go on (engine/run/exit.py)
            echo(f"\nno longer waiting for the jobs; their table: python -m engine.sweep {directory}")
            raise SystemExit(interruption.exit_status) from None

    def attended_results(job: Any) -> list[JobReturn]:
        try:
            return results(job)
        except (FailedJobError, UncompletedJobError):
            lost.append(f"{job.job_id} ({os.path.relpath(job.paths.stderr)})")
            return [JobReturn(status=JobStatus.COMPLETED)]

    BaseSubmititLauncher.launch, Job.results = attended_launch, attended_results
