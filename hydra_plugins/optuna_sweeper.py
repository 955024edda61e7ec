"""The sweeper of `hydra/sweeper=optuna`: Hydra's side of a study (engine/sweep/study.py is Optuna's).

The published plug-in, hydra-optuna-sweeper 1.3.0, needs an Optuna below 3.0 and supports neither pruning nor resuming
trials. Hydra finds sweepers only in the namespace package `hydra_plugins`; this one, next to train.py, is found from
any working directory. Hydra imports all modules here at every start, so slow imports are local.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from engine.config.check import check
from engine.config.identity import free
from engine.config.overrides import MISTAKES, key_of, parse
from engine.run.console import echo
from engine.run.directory import RunDirectory
from engine.run.errors import CommandError, RunError
from engine.run.exit import exit_with_error
from engine.sweep import study
from engine.sweep.jobs import STOPPED, failed, show

if TYPE_CHECKING:
    import optuna


class StudySweeper(Sweeper):
    """Runs the trials of a study as jobs of a sweep and reports their results to the study."""

    def __init__(self, *, n_jobs: int, pruner: str, n_warmup_epochs: int, trial: None, **options: Any):
        self.n_jobs, self.options = n_jobs, options  # the rest is for the jobs (engine.build.training.pruning_callback)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Called by Hydra with the overrides: run trials until the study is complete."""
        directory = Path(self.config.hydra.sweep.dir)
        overrides = [parse(word) for word in arguments]
        searched = [override for override in overrides if override.is_sweep_override()]
        self.fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        try:
            if not searched:
                raise CommandError("hydra/sweeper=optuna: no setting to search, 'optimizer.lr=interval(0.01,0.5)'")
            self.search = study.open_study(
                space={override.get_key_element(): distribution(override) for override in searched},
                fixed=[word for word in self.fixed if key_of(word) not in free(self.config)],
                directory=directory,
                **self.options,
            )
            OmegaConf.save(self.config, directory / "multirun.yaml")
            self.run_trials(directory)
        except RunError as error:
            exit_with_error(error)

    def run_trials(self, directory: Path) -> None:
        """Run trials until the study is complete; if the database fails, print the leaderboard of the finished ones."""
        try:
            with self.search.hold_lock():
                while not (directory / STOPPED).exists() and (trials := self.search.next_trials(self.n_jobs)):
                    self.do(trials, directory)
            self.print_best(directory)
        except study.StudyError:
            show(directory)
            raise

    def do(self, trials: Sequence["optuna.Trial"], directory: Path) -> None:
        """Launch trials and report their results to the study; a trial with invalid settings has failed."""
        options = [word for word in self.config.hydra.overrides.hydra if word.startswith("hydra/")]
        jobs = {}
        for trial in trials:
            words = [*self.fixed, *chosen(trial.params)]
            try:
                check("config", [parse(word) for word in [*options, *words]])
                jobs[trial.number] = [*words, f"hydra.sweeper.trial={trial.number}"]
            except MISTAKES as mistake:
                run = RunDirectory(directory / f"trial{trial.number}")
                run.path.mkdir(exist_ok=True)
                failed(run, mistake, stop=self.config.sweep_on_error == "stop")
                self.search.tell(trial.number, run.path)
        ended = self.launcher.launch(list(jobs.values()), initial_job_idx=min(jobs)) if jobs else []
        for number, job in zip(jobs, ended, strict=True):
            _ = job.return_value  # raises errors from outside the run
            if job.hydra_cfg is not None:  # None for a job that was killed on a cluster: its trial stays open
                self.search.tell(number, Path(job.hydra_cfg.hydra.runtime.output_dir))

    def print_best(self, directory: Path) -> None:
        """Print the best trial and the command to repeat it, and plot the study."""
        best = self.search.best()
        if best is None:
            return echo("\nno trial is finished")
        words = [word for word in self.fixed if not key_of(word).startswith("sweep")]
        echo(f"\nbest: trial {best.number}, val accuracy {100 * best.value:.2f} %; to repeat it:")
        echo(f"python train.py {shlex.join([*words, *chosen(best.params)])}")
        try:
            study.draw(self.search.study, directory / "study.png")
        except OSError as error:
            echo(f"{RunDirectory(directory)}: study.png could not be written ({error.strerror})")


def chosen(params: Mapping[str, Any]) -> list[str]:
    """The overrides that set a trial's parameters."""
    return [f"{key}={rounded(value) if isinstance(value, float) else value}" for key, value in params.items()]


def rounded(value: float) -> str:
    """A number with four significant digits, or near 1 with four significant digits of its distance from 1.

    A decay of 0.99983 averages over 18 % more steps than one of 0.9998.
    """
    near = 5e-4 * min(abs(value), abs(1 - value))
    digits = next(digits for digits in range(4, 18) if abs(float(f"{value:.{digits}g}") - value) <= near)
    return f"{value:.{digits}g}"


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """The Optuna distribution of a sweep override: interval (both ends included), range, or list of values.

    Raises CommandError for unsupported tags.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, line = override.value(), override.input_line
    unknown = value.tags - ({"log"} if override.is_interval_sweep() else set())
    if unknown:
        raise CommandError(f"{line}: no such tag, {', '.join(sorted(unknown))}; there is tag(log,interval(...))")
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep():
        numbers = sorted(value.range())
        kind = IntDistribution if isinstance(numbers[0], int) else FloatDistribution
        return kind(numbers[0], numbers[-1], step=abs(value.step))
    return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
