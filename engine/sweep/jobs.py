"""Sweeps: each job in a directory that follows from its configuration, and what they came to.

python -m engine.sweep multirun/NAME prints the table of a sweep at any time, also while it runs.

The same command with the same `sweep=` resumes it: a finished job is skipped, an interrupted one resumed, and a failed
one runs again. No torch here.
"""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from engine.config.overrides import jobs
from engine.device.memory import memory_explained
from engine.run.console import Console, echo, logger
from engine.run.directory import InUse, RunDirectory, sweep_override, write_json, write_text
from engine.run.errors import Pruned
from engine.run.exit import reason
from engine.run.signals import Interrupted, Signals
from engine.sweep import gpu_slots

LONGEST_LABEL = 40  # characters of it in front of a line

PARALLEL = ("joblib", "submitit_local")  # launchers that run jobs in parallel on this machine

STOPPED = ".stopped"  # is in the directory of a sweep that shall begin no further job

Work = Callable[[DictConfig, RunDirectory], None]


def run_job(config: DictConfig, run: RunDirectory, work: Work) -> None:
    """Do one job of a sweep if there is anything to do; one that fails says why, and does not end the sweep.

    A job that runs in parallel with others has a GPU to itself, and a label on its lines. Raises Interrupted.
    """
    choices = HydraConfig.get().runtime.choices
    is_parallel = choices["hydra/launcher"] in PARALLEL
    Console.label = f"{label(run.path.name)} | " if is_parallel else ""
    gpus = gpu_slots.gpus() if is_parallel and config.trainer.device in ("auto", "cuda") else []
    try:
        with Signals(), run.in_use():
            named = f"{which_of_them()}{run}"
            if (run.path.parent / STOPPED).exists():
                logger.info(f"{named}: not begun, since another job failed")
            elif run.status == "finished":
                logger.info(f"{named}: finished already")
            else:
                logger.info(f"{named}{': going on' if run.newest else ''}")
                config.resume = str(run.path) if run.newest else None
                try:
                    with (
                        gpu_slots.gpu_slot(gpus, jobs_per_gpu=config.sweep_jobs_per_gpu, directory=gpu_slots.locks()),
                        memory_explained(f"model={choices.model}"),
                    ):
                        work(config, run)
                except Pruned as pruned:
                    logger.info(f"{run}: {pruned}")
                except Exception as error:
                    failed(run, error, stop=config.sweep_on_error == "stop")
    except InUse:
        logger.info(f"{run}: another process is at it")
    except Interrupted as interruption:
        interruption.pass_on()
        raise


def which_of_them() -> str:
    """The number of this job in front of its first line, where one process does all of them: "job 2 of 6: "."""
    return f"job {HydraConfig.get().job.num + 1} of {Table.jobs}: " if Table.jobs else ""


def label(directory: str) -> str:
    """What the directory of a job is called on its lines: what distinguishes it or, where that is long, its ends."""
    said = directory.rpartition("-")[0] or directory
    half = LONGEST_LABEL // 2
    return said if len(said) <= LONGEST_LABEL else f"{said[:half]}...{directory[-half:]}"


def failed(run: RunDirectory, error: Exception, *, stop: bool) -> None:
    """Keep what went wrong in a job's directory, and say it."""
    said = " ".join(reason(error).split()) or type(error).__name__
    echo(f"{run}: failed: {said}", error=True)
    try:
        write_text(run.path / "traceback.txt", "".join(traceback.format_exception(error)))
        found = json.loads(run.result.read_text()) if run.result.exists() else {"epochs": 0}
        write_json(run.result, found | {"status": "failed", "error": said})
        if stop:
            (run.path.parent / STOPPED).touch()
    except OSError as error:
        echo(f"{run}: that could not be written ({error.strerror})", error=True)


class Table(Callback):
    """Hydra's hooks around a sweep: at its end the table, and the failed jobs by name, with status 1.

    `directory` is that of the sweep which this process is at, to say how to resume it, and `jobs` how many it has;
    other processes that do some of them have neither. A launcher notes in `lost` each job that left no result
    (hydra_plugins/submitit_launcher.py).
    """

    directory: Path | None = None
    jobs: int | None = None
    lost: ClassVar[list[str]] = []

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep that was stopped by a failed job begins again."""
        self.begun = time.time()
        Table.lost.clear()
        Table.directory, Table.jobs = Path(config.hydra.sweep.dir), count_jobs(config)
        (Table.directory / STOPPED).unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table; exit with status 1 if a job has failed since the sweep began, or was lost."""
        directory = Path(config.hydra.sweep.dir)
        try:
            show(directory)
        except Exception as error:  # which Hydra would take for a warning, and leave out what follows
            echo(f"train.py: there is no table: {' '.join(reason(error).split())}", error=True)
        runs = [RunDirectory(file.parent) for file in sorted(directory.glob("*/result.json"))]
        lost = [run for run in runs if run.status == "failed" and run.result.stat().st_mtime >= self.begun]
        if lost:
            names = ", ".join(run.path.name for run in lost)
            echo(f"train.py: {len(lost)} of {Table.jobs} jobs failed: {names}", error=True)
        if (directory / STOPPED).exists():
            begins = f"the same command with {sweep_override(directory)} begins them"
            echo(f"train.py: sweep_on_error=stop: the jobs after it were not started; {begins}", error=True)
        if self.lost:
            echo(f"train.py: ended without a result, submitit's {', '.join(self.lost)}", error=True)
        if lost or self.lost:
            raise SystemExit(1)


def count_jobs(config: DictConfig) -> int:
    """How many jobs a sweep has: every combination of the values, or as many trials as a study shall have."""
    if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
        return config.hydra.sweeper.n_trials
    return sum(1 for _ in jobs(config.hydra.overrides.task, multirun=True))


def show(directory: Path) -> None:
    """Print the table of a sweep and, where there is something in it, write it with its pictures."""
    from engine.sweep import leaderboard, leaderboard_figures

    runs = leaderboard.read_runs(directory)
    echo(f"\n{leaderboard.as_text(runs)}")
    if any(run.is_finished for run in runs):
        try:
            leaderboard_figures.write(runs, directory)
            echo(f"\nwritten to {RunDirectory(directory)}: leaderboard.md, leaderboard.csv, pictures")
        except OSError as error:
            echo(f"\n{RunDirectory(directory)}: nothing can be written there ({error.strerror})")
