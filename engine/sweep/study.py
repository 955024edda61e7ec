"""A study: a search in which each trial's settings follow from what earlier ones came to, chosen by Optuna.

A study lies in a database. Processes that share it divide its trials, and a later one goes on with it: it also takes
up what a process left behind that was killed. What is maximised is the accuracy in validation, never that on the test
images. No torch here, and Optuna, which takes a second to import, only where there is a study.
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


PATIENCE = 60  # seconds for which SQLite waits while another process writes

ENOUGH = 10  # finished trials, to say which setting matters

ENDS = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # status of a run: state of its trial


class StudyError(RunError):
    """A study cannot be opened or gone on with; the message is one line that says why."""


@cache
def database(storage: str) -> "optuna.storages.RDBStorage":
    """The database at a URL, once a process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = {"connect_args": {"timeout": PATIENCE}} if storage.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(storage, engine_kwargs=options)


@contextmanager
def explained(storage: str) -> Iterator[None]:
    """Within, a database that cannot be had or written to raises StudyError."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ImportError, OSError, SQLAlchemyError, ValueError, optuna.exceptions.OptunaError) as error:
        raise StudyError(f"hydra.sweeper.storage={storage}: {trouble_with(storage, error)}") from None


def trouble_with(storage: str, error: Exception) -> str:
    """What is wrong with a database, in a line: the driver's own words, which lie behind Optuna's of a commit."""
    file = file_of(storage)
    if file is not None and file.parent.is_dir() and not file.exists():
        return "the file is gone; the same command begins the study anew, and does not repeat what is finished"
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split("\n")[0].split())


def file_of(storage: str) -> Path | None:
    """The file of an SQLite database; None of another."""
    scheme, _, file = storage.partition(":///")
    return Path(file) if scheme.startswith("sqlite") and file else None


def lock_of(storage: str, directory: Path) -> Path:
    """The file that is locked while a trial is chosen: beside an SQLite file, else in the sweep's directory."""
    file = file_of(storage)
    return directory / ".study.lock" if file is None else file.with_name(f"{file.name}.lock")


def pruner_named(name: str, *, n_startup_trials: int, n_warmup_epochs: int) -> "optuna.pruners.BasePruner":
    """What ends trials early."""
    from optuna.pruners import MedianPruner, NopPruner

    return {"median": MedianPruner(n_startup_trials, n_warmup_epochs), "none": NopPruner()}[name]


def sampler_named(name: str, *, n_startup_trials: int, seed: int) -> "optuna.samplers.BaseSampler":
    """What chooses settings."""
    from optuna.samplers import RandomSampler, TPESampler

    return {"tpe": TPESampler(n_startup_trials=n_startup_trials, seed=seed), "random": RandomSampler(seed)}[name]


def trial_of(study: "optuna.Study", number: int) -> "optuna.Trial":
    """A trial by its number, to add to it, whichever process has begun it."""
    import optuna

    # Private, but the one way: Optuna gives such an object only to the process that asks for a new trial.
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def never_prune(records: Sequence[Mapping[str, Any]]) -> None:
    """What judges a run that belongs to no study."""


def pruning_callback(
    *, storage: str, study_name: str, trial: int, pruner: str, n_startup_trials: int, n_warmup_epochs: int
) -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """What tells the study the accuracies of a trial, epoch by epoch, and raises Pruned where it should end."""
    import optuna

    rule = pruner_named(pruner, n_startup_trials=n_startup_trials, n_warmup_epochs=n_warmup_epochs)
    with explained(storage):
        study = optuna.load_study(study_name=study_name, storage=database(storage), pruner=rule)
        running = trial_of(study, trial)
        told = set(study.get_trials(deepcopy=False)[trial].intermediate_values)

    def look(records: Sequence[Mapping[str, Any]]) -> None:
        with explained(storage):
            for record in records:
                if record["epoch"] not in told:
                    running.report(val_accuracy(record), record["epoch"])
                    told.add(record["epoch"])
            is_hopeless = running.should_prune()
        if is_hopeless:
            best = f"{100 * max(map(val_accuracy, records)):.2f} %"
            raise Pruned(f"pruned after {len(records)} epochs: others did better by then than val accuracy {best}")

    return look


def val_accuracy(record: Mapping[str, Any]) -> float:
    """An epoch's accuracy in validation, of the network or of that average of its weights which does best."""
    accuracies = [value for name, value in record.items() if name.startswith("val_accuracy")]
    if not accuracies:
        raise StudyError("dataset.val_size: of so few training images none is held out, which a study goes by")
    return max(accuracies)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One process's part in a study.

    `space` are the distributions of the settings that are searched, by key. While the process lives it holds a lock on
    the file `owner`, whose name its trials carry: so any other can tell those that were left behind. Each choice is
    seeded by `seed` and the trial's number, so that a study that was interrupted chooses as one that was not. Whatever
    asks the database `storage` raises StudyError where that has gone, or can no longer be written to.
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
    def at_work(self) -> Iterator[None]:
        """Within, the trials of this process are its own."""
        from filelock import FileLock

        with FileLock(self.owner):  # the file stays, for a trial of it that another process has the run of
            yield

    def next_trials(self, at_once: int) -> list["optuna.Trial"]:
        """At most so many trials to do now: those that a process left behind, then new ones; none at the end."""
        import optuna
        from filelock import FileLock

        with explained(self.storage), FileLock(self.lock):
            trials = self.study.get_trials(deepcopy=False)
            running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
            chosen = [trial_of(self.study, trial.number) for trial in running if self.was_left(trial)][:at_once]
            due = self.n_trials - sum(map(self.counts, trials))
            for number in range(len(trials), len(trials) + min(due, at_once - len(chosen))):
                chosen.append(self.ask(number))
            for trial in chosen:
                trial.set_user_attr("owner", str(self.owner))
        return chosen

    def ask(self, number: int) -> "optuna.Trial":
        """A new trial, the study's `number`th."""
        seed = random.Random(f"{self.seed} {number}").getrandbits(32)
        self.study.sampler = sampler_named(self.sampler, n_startup_trials=self.n_startup_trials, seed=seed)
        return self.study.ask(self.space)

    def was_left(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether the process that began a trial is no more. One on a machine with other files may live."""
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
        """Tell the study what became of a trial, by what its run left, and say it; nothing of one that is not over."""
        import optuna

        for run in leaderboard.read_runs(directory):
            status = run.result["status"]
            if status not in ENDS:
                continue  # it is another process that is at it
            value = run.val_accuracy if run.is_finished else None
            with explained(self.storage):
                self.study.tell(number, value, optuna.trial.TrialState[ENDS[status]], skip_if_finished=True)
            said = f"val accuracy {100 * value:.2f} %" if run.is_finished else status
            best = self.best()
            so_far = f"; the best is {100 * best.value:.2f} % of trial {best.number}" if best else ""
            echo(f"trial {number}: {said}{so_far}")

    def best(self) -> "optuna.trial.FrozenTrial | None":
        """The trial with the highest accuracy; None before any is finished."""
        with explained(self.storage):
            return max(finished(self.study), key=lambda trial: trial.value, default=None)


def begin(
    *,
    storage: str,
    study_name: str,
    space: dict[str, "optuna.distributions.BaseDistribution"],
    fixed: Sequence[str],
    directory: Path,
    **options: Any,
) -> Search:
    """This process's part in a study, which begins or goes on; `options` are further fields of Search.

    `fixed` are the words of the command that all trials have, but for those that alter no result. Raises StudyError
    where the study was begun with others, or searched other values.
    """
    from filelock import FileLock

    lock, owner = lock_of(storage, directory), directory.resolve() / f".owner-{secrets.token_hex(4)}"
    with explained(storage):
        directory.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            study = opened(storage, study_name, sorted(fixed))
        require_same_values(study, space)
        return Search(storage=storage, study=study, space=space, lock=lock, owner=owner, **options)


def opened(storage: str, study_name: str, fixed: list[str]) -> "optuna.Study":
    """A study as it is, or a new one. Raises StudyError for one whose trials have other words than `fixed`."""
    import optuna

    study = optuna.create_study(
        study_name=study_name, storage=database(storage), direction="maximize", load_if_exists=True
    )
    before = study.user_attrs.get("fixed", fixed)
    if before != fixed:
        begun = " ".join(before) or "no other settings"
        raise StudyError(f"hydra.sweeper.study_name={study_name}: that was begun with {begun}; give another name")
    study.set_user_attr("fixed", fixed)
    return study


def require_same_values(study: "optuna.Study", space: dict[str, "optuna.distributions.BaseDistribution"]) -> None:
    """Raise StudyError for a study that searched other values of a list; an interval may be another."""
    from optuna.distributions import check_distribution_compatibility

    for trial in study.get_trials(deepcopy=False):
        for key in space.keys() & trial.distributions.keys():
            try:
                check_distribution_compatibility(trial.distributions[key], space[key])
            except ValueError:
                name = f"hydra.sweeper.study_name={study.study_name}"
                raise StudyError(f"{name}: that searched other values of {key}; give another name") from None


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The trials that have a value, in their order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def draw(study: "optuna.Study", file: Path) -> None:
    """Accuracy trial by trial with the best so far, and against each setting, of which one at least is searched.

    Pruned trials are crosses at the best that they had reached. A setting's share of what explains the accuracy is
    PED-ANOVA's (Watanabe et al., 2023, arXiv 2304.10255).
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
            places = [number if key is None else place(trials[number], key) for number in shown]
            panel.plot(places, [100 * figures[number] for number in shown], marker, color=plot.COLOURS[0], markersize=5)
        if key is not None:
            share = f", {100 * shares[key]:.0f} % of the effect" if key in shares else ""
            panel.set_xlabel(f"{key}{share}", color=plot.INK)
            scale_as(panel, next(trial.distributions[key] for trial in trials if key in trial.params))
    for panel in panels[::columns]:
        panel.set_ylabel("val accuracy, %", color=plot.INK)
    plot.save(canvas, file)


def place(trial: "optuna.trial.FrozenTrial", key: str) -> float:
    """Where a setting of a trial lies on its axis: the number itself, or the number of a value of a list."""
    return trial.distributions[key].to_internal_repr(trial.params[key])


def scale_as(panel: "Axes", distribution: "optuna.distributions.BaseDistribution") -> None:
    """Give an axis the scale of a setting: logarithmic, or the values of a list by name."""
    if choices := getattr(distribution, "choices", ()):
        panel.set_xticks(range(len(choices)), choices, rotation=20 if len(choices) > 3 else 0)
        panel.set_xlim(-0.5, len(choices) - 0.5)
    elif distribution.log:
        panel.set_xscale("log")
        plot.name_ticks(panel, plot.ROUND, plot.rounded)


def importances(study: "optuna.Study", keys: Sequence[str]) -> dict[str, float]:
    """How much each setting matters, in shares of 1; nothing where there is too little to go by."""
    import optuna

    ended = finished(study)
    known = [key for key in keys if any(key in trial.params for trial in ended)]
    if len(known) < 2 or len(ended) < ENOUGH:
        return {}
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), params=known
    )
