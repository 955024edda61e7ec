"""Hyperparameter search with Optuna: one study of many trials.

A study is stored in a database. Processes that share it divide its trials; a later process resumes it, including the
trials of a process that was killed. The objective is the validation accuracy, never the test accuracy. No torch here,
and Optuna, which takes a second to import, only if there is a study.
"""

import math
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.plotting import plot
from engine.run.console import echo
from engine.run.errors import Pruned, RunError
from engine.sweep import leaderboard

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes


SQLITE_TIMEOUT = 60  # seconds to wait while another process writes

MIN_FINISHED_TRIALS = 10  # for the importance of settings

TRIAL_STATES = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # status of a run: state of its trial


class StudyError(RunError):
    """A study cannot be load_or_create_study or gone on with; the message is one line that says why."""


@cache
def database(storage: str) -> "optuna.storages.RDBStorage":
    """The database at a URL, opened once per process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if storage.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(storage, engine_kwargs=options)


@contextmanager
def study_errors(storage: str) -> Iterator[None]:
    """Turn errors of opening, reading or writing the database into StudyError."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ImportError, OSError, SQLAlchemyError, ValueError, optuna.exceptions.OptunaError) as error:
        raise StudyError(f"hydra.sweeper.storage={storage}: {error_reason(storage, error)}") from None


def error_reason(storage: str, error: Exception) -> str:
    """The reason of a database error in one line: the message of the driver, the root cause of Optuna's exception."""
    file = file_of(storage)
    if file is not None and file.parent.is_dir() and not file.exists():
        return "the file is gone; the same command starts a new study and does not repeat finished runs"
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split("\n")[0].split())


def file_of(storage: str) -> Path | None:
    """The file of an SQLite database; None for other databases."""
    scheme, _, file = storage.partition(":///")
    return Path(file) if scheme.startswith("sqlite") and file else None


def lock_of(storage: str, directory: Path) -> Path:
    """The lock file held while a trial is chosen: next to an SQLite file, else in the sweep's directory."""
    file = file_of(storage)
    return directory / ".study.lock" if file is None else file.with_name(f"{file.name}.lock")


def make_pruner(name: str, *, n_startup_trials: int, n_warmup_epochs: int) -> "optuna.pruners.BasePruner":
    """The pruner of this name."""
    from optuna.pruners import MedianPruner, NopPruner

    return {"median": MedianPruner(n_startup_trials, n_warmup_epochs), "none": NopPruner()}[name]


def make_sampler(name: str, *, n_startup_trials: int, seed: int) -> "optuna.samplers.BaseSampler":
    """The sampler of this name."""
    from optuna.samplers import RandomSampler, TPESampler

    return {"tpe": TPESampler(n_startup_trials=n_startup_trials, seed=seed), "random": RandomSampler(seed)}[name]


def trial_of(study: "optuna.Study", number: int) -> "optuna.Trial":
    """A writable trial by its number, whichever process started it."""
    import optuna

    # Private, but the only way: Optuna returns a writable trial only from Study.ask.
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def never_prune(records: Sequence[Mapping[str, Any]]) -> None:
    """The pruning callback of a run outside of any study."""


def pruning_callback(
    *, storage: str, study_name: str, trial: int, pruner: str, n_startup_trials: int, n_warmup_epochs: int
) -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """A callback that reports the accuracies of a trial after each epoch, and raises Pruned if it should end."""
    import optuna

    rule = make_pruner(pruner, n_startup_trials=n_startup_trials, n_warmup_epochs=n_warmup_epochs)
    with study_errors(storage):
        study = optuna.load_study(study_name=study_name, storage=database(storage), pruner=rule)
        running = trial_of(study, trial)
        reported = set(study.get_trials(deepcopy=False)[trial].intermediate_values)

    def report(records: Sequence[Mapping[str, Any]]) -> None:
        with study_errors(storage):
            for record in records:
                if record["epoch"] not in reported:
                    running.report(val_accuracy(record), record["epoch"])
                    reported.add(record["epoch"])
            should_prune = running.should_prune()
        if should_prune:
            best = f"{100 * max(map(val_accuracy, records)):.2f} %"
            raise Pruned(f"pruned after {len(records)} epochs: others did better by then than val accuracy {best}")

    return report


def val_accuracy(record: Mapping[str, Any]) -> float:
    """An epoch's validation accuracy: the highest of the network's and its averages'."""
    accuracies = [value for name, value in record.items() if name.startswith("val_accuracy")]
    if not accuracies:
        raise StudyError("dataset.val_size: with so few training images none is held out, but a study needs some")
    return max(accuracies)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One process's part in a study.

    `space` are the distributions of the searched settings, by key. While the process runs it holds a lock on the file
    `owner`, whose name is stored in its trials, so that other processes can detect abandoned trials. The sampler is
    seeded by `seed` and the trial's number, so that an interrupted study chooses the same settings. Methods that access
    the database `storage` raise StudyError if it is gone or cannot be written.
    """

    storage: str
    study: "optuna.Study"
    space: dict[str, "optuna.distributions.BaseDistribution"]
    lock: Path
    owner: Path
    n_trials: int
    sampler: str
    n_startup_trials: int
    seed: int
    begun: datetime = field(default_factory=datetime.now)

    @contextmanager
    def hold_lock(self) -> Iterator[None]:
        """Hold the lock that marks this process's trials as running."""
        from filelock import FileLock

        with FileLock(self.owner):  # the file is kept: another process may hold one of its trials
            yield

    def next_trials(self, at_once: int) -> list["optuna.Trial"]:
        """The next trials, at most `at_once`: abandoned ones first, then new ones; empty when the study is complete."""
        import optuna
        from filelock import FileLock

        with study_errors(self.storage), FileLock(self.lock):
            trials = self.study.get_trials(deepcopy=False)
            running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
            chosen = [trial_of(self.study, trial.number) for trial in running if self.is_abandoned(trial)][:at_once]
            due = self.n_trials - sum(map(self.counts, trials))
            for number in range(len(trials), len(trials) + min(due, at_once - len(chosen))):
                chosen.append(self.ask(number))
            for trial in chosen:
                trial.set_user_attr("owner", str(self.owner))
        return chosen

    def ask(self, number: int) -> "optuna.Trial":
        """Create the study's trial number `number`."""
        seed = random.Random(f"{self.seed} {number}").getrandbits(32)
        self.study.sampler = make_sampler(self.sampler, n_startup_trials=self.n_startup_trials, seed=seed)
        return self.study.ask(self.space)

    def is_abandoned(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether the process that started a trial is dead; False if its lock file is not on this machine."""
        from filelock import FileLock, Timeout

        owner = Path(trial.user_attrs.get("owner", ""))
        if owner == self.owner or not owner.is_file():
            return False
        try:
            with FileLock(owner, blocking=False):
                return True
        except Timeout:
            return False

    def counts(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether a trial is one of the `n_trials`: not if it failed before this command began."""
        return trial.state.name != "FAIL" or trial.datetime_complete >= self.begun

    def tell(self, number: int, directory: Path) -> None:
        """Report the result of a trial's run to the study, and print it; nothing if the run is not over."""
        import optuna

        for run in leaderboard.read_runs(directory):
            status = run.result["status"]
            if status not in TRIAL_STATES:
                continue  # another process is running it
            value = run.val_accuracy if run.is_finished else None
            with study_errors(self.storage):
                self.study.tell(number, value, optuna.trial.TrialState[TRIAL_STATES[status]], skip_if_finished=True)
            said = f"val accuracy {100 * value:.2f} %" if run.is_finished else status
            best = self.best()
            so_far = f"; the best is {100 * best.value:.2f} % of trial {best.number}" if best else ""
            echo(f"trial {number}: {said}{so_far}")

    def best(self) -> "optuna.trial.FrozenTrial | None":
        """The trial with the highest accuracy; None if none is finished."""
        with study_errors(self.storage):
            return max(finished(self.study), key=lambda trial: trial.value, default=None)


def open_study(
    *,
    storage: str,
    study_name: str,
    space: dict[str, "optuna.distributions.BaseDistribution"],
    fixed: Sequence[str],
    directory: Path,
    **options: Any,
) -> Search:
    """Create or resume a study; `options` are further fields of Search.

    `fixed` are the overrides that all trials share, without those that do not alter the result. Raises StudyError if
    the study was created with others, or searched other values.
    """
    from filelock import FileLock

    lock, owner = lock_of(storage, directory), directory.resolve() / f".owner-{secrets.token_hex(4)}"
    with study_errors(storage):
        directory.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            study = load_or_create_study(storage, study_name, sorted(fixed))
        require_same_values(study, space)
        return Search(storage=storage, study=study, space=space, lock=lock, owner=owner, **options)


def load_or_create_study(storage: str, study_name: str, fixed: list[str]) -> "optuna.Study":
    """Load or create a study. Raises StudyError if its trials have other overrides than `fixed`."""
    import optuna

    study = optuna.create_study(
        study_name=study_name, storage=database(storage), direction="maximize", load_if_exists=True
    )
    before = study.user_attrs.get("fixed", fixed)
    if before != fixed:
        settings = " ".join(before) or "no other settings"
        raise StudyError(f"hydra.sweeper.study_name={study_name}: it was created with {settings}; give another name")
    study.set_user_attr("fixed", fixed)
    return study


def require_same_values(study: "optuna.Study", space: dict[str, "optuna.distributions.BaseDistribution"]) -> None:
    """Raise StudyError if the study searched other values of a list; intervals may change."""
    from optuna.distributions import check_distribution_compatibility

    for trial in study.get_trials(deepcopy=False):
        for key in space.keys() & trial.distributions.keys():
            try:
                check_distribution_compatibility(trial.distributions[key], space[key])
            except ValueError:
                name = f"hydra.sweeper.study_name={study.study_name}"
                raise StudyError(f"{name}: it searched other values of {key}; give another name") from None


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The finished trials, in order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def draw(study: "optuna.Study", file: Path) -> None:
    """Plot accuracy by trial with the best so far, and against each of the searched settings (at least one).

    Pruned trials are crosses at their best accuracy. The importance of a setting is PED-ANOVA's (Watanabe et al., 2023,
    arXiv 2304.10255).
    """
    trials, ended = study.get_trials(deepcopy=False), finished(study)
    heights = {trial.number: trial.value for trial in ended}
    reached = {trial.number: trial.intermediate_values.values() for trial in trials if trial.state.name == "PRUNED"}
    pruned = {number: max(accuracies) for number, accuracies in reached.items() if accuracies}
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    count = 1 + len(keys)
    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas, panels = plot.figure(width=3.8 * columns, height=3.2 * rows, rows=rows, columns=columns, same_x=False)
    for panel in panels[count:]:
        panel.set_visible(False)
    best = [100 * max(trial.value for trial in ended[: end + 1]) for end in range(len(ended))]
    if best:
        panels[0].plot([*heights, trials[-1].number], [*best, best[-1]], color=plot.COLOURS[1], drawstyle="steps-post")
    plot.whole_ticks(panels[0])
    panels[0].set_xlabel("trial, and the best so far", color=plot.INK)
    shares = importances(study, keys)
    for panel, key in zip(panels, [None, *keys], strict=False):
        for figures, marker in ((heights, "o"), (pruned, "x")):
            shown = [number for number in figures if key is None or key in trials[number].params]
            places = [number if key is None else axis_position(trials[number], key) for number in shown]
            panel.plot(places, [100 * figures[number] for number in shown], marker, color=plot.COLOURS[0], markersize=5)
        if key is not None:
            share = f", importance {100 * shares[key]:.0f} %" if key in shares else ""
            panel.set_xlabel(f"{key}{share}", color=plot.INK)
            scale_as(panel, next(trial.distributions[key] for trial in trials if key in trial.params))
    for panel in panels[::columns]:
        panel.set_ylabel("val accuracy, %", color=plot.INK)
    plot.save(canvas, file)


def axis_position(trial: "optuna.trial.FrozenTrial", key: str) -> float:
    """The position of a trial's setting on its axis: the number, or the index in a list of values."""
    return trial.distributions[key].to_internal_repr(trial.params[key])


def scale_as(panel: "Axes", distribution: "optuna.distributions.BaseDistribution") -> None:
    """Set the scale of a setting's axis: logarithmic, or categories."""
    if choices := getattr(distribution, "choices", ()):
        panel.set_xticks(range(len(choices)), choices, rotation=20 if len(choices) > 3 else 0)
        panel.set_xlim(-0.5, len(choices) - 0.5)
    elif distribution.log:
        panel.set_xscale("log")
        plot.name_ticks(panel, plot.ROUND, plot.rounded)


def importances(study: "optuna.Study", keys: Sequence[str]) -> dict[str, float]:
    """The importance of each setting, summing to 1; empty if there are too few trials or settings."""
    import optuna

    ended = finished(study)
    known = [key for key in keys if any(key in trial.params for trial in ended)]
    if len(known) < 2 or len(ended) < MIN_FINISHED_TRIALS:
        return {}
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), params=known
    )
