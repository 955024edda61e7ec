"""Studies: what is searched, who does which trial, what ends early, and that the same command goes on."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from engine.build import training
from engine.config import command
from engine.config.overrides import jobs, parse
from engine.run.errors import CommandError, Pruned
from engine.sweep import study
from tests.support.runs import ROOT, SMALL

# What is searched


@pytest.fixture(scope="module")
def sweeper():
    """The module of the sweeper, as Hydra finds it."""
    Plugins.instance()
    return sys.modules["hydra_plugins.optuna_sweeper"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(0.01,0.5)", FloatDistribution(0.01, 0.5)),
        ("a=interval(1,5)", FloatDistribution(1, 5)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=tag(log,interval(0.01,0.5))", FloatDistribution(0.01, 0.5, log=True)),
        ("a=tag(log,int(interval(8,64)))", IntDistribution(8, 64, log=True)),
        ("a=range(1,5)", IntDistribution(1, 4)),
        ("a=range(9,0,-3)", IntDistribution(3, 9, step=3)),
        ("a=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=3,1,3", CategoricalDistribution(["3", "1"])),
        ("a=[x,y],null,'b c'", CategoricalDistribution(["[x,y]", "null", "'b c'"])),
    ],
)
def test_hydras_words_for_what_optuna_chooses_from(sweeper, word, expected):
    assert sweeper.distribution(parse(word)) == expected


@pytest.mark.parametrize("word", ["a=tag(lgo,interval(1,2))", "a=tag(log,choice(1,2))", "a=tag(log,range(1,3))"])
def test_a_tag_that_would_do_nothing_is_refused(sweeper, word):
    with pytest.raises(CommandError, match="no such tag"):
        sweeper.distribution(parse(word))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0123456, "0.01235"),
        (3.0e-05, "3e-05"),
        (0.5, "0.5"),
        (0.99983412, "0.9998341"),
        (0.99996, "0.99996"),
        (1.0, "1"),
        (0.0, "0"),
        (-123.456, "-123.5"),
    ],
)
def test_a_number_is_said_with_four_digits_of_it_and_of_what_is_missing_to_one(sweeper, value, said):
    assert sweeper.chosen({"a": value, "b": 3, "c": "x"}) == [f"a={said}", "b=3", "c=x"]


def test_a_job_that_left_no_word_is_no_mistake(sweeper, monkeypatch):
    """As of one that was killed on a cluster (submitit): its trial is left to whoever goes on."""
    ended = [JobReturn(status=JobStatus.COMPLETED), JobReturn(status=JobStatus.COMPLETED)]
    ended[1].hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": "there"}}})
    monkeypatch.setattr(sweeper, "check", lambda *_: None)
    told, one = [], sweeper.StudySweeper(n_jobs=2, pruner="none", n_warmup_epochs=1, trial=None)
    one.config, one.fixed = OmegaConf.create({"hydra": {"overrides": {"hydra": []}}}), []
    one.launcher = SimpleNamespace(launch=lambda words, initial_job_idx: ended)
    one.search = SimpleNamespace(tell=lambda number, place: told.append((number, place)))
    one.do([SimpleNamespace(number=number, params={}) for number in (4, 5)], Path())
    assert told == [(5, Path("there"))]


def test_each_value_is_checked_once_and_of_numbers_both_ends():
    words = ["hydra/sweeper=optuna", "optimizer.lr=interval(0.1,0.5)", "model=a,b,c", "seed=7"]
    found = [[override.input_line for override in job[1:]] for job in jobs(words, multirun=True)]
    assert found == [
        ["optimizer.lr=0.1", "model=a", "seed=7"],
        ["optimizer.lr=0.5", "model=a", "seed=7"],
        ["optimizer.lr=0.1", "model=b", "seed=7"],
        ["optimizer.lr=0.1", "model=c", "seed=7"],
    ]


LR = "'optimizer.lr=interval(0.01,0.5)'"
WRONG = {
    "'optimizer.lr=interval(a,0.5)'": "optimizer.lr=interval(a,0.5): an interval takes two numbers",
    "'optimizer.lr=interval(0.5,0.1)'": "the interval from 0.5 to 0.1 is empty; give the smaller end first",
    "'optimizer.lr=interval(0.01,5000)'": "optimizer.lr=5000.0: must be a number > 0, <= 1000",
    "'optimizer.lr=tag(log,interval(0,1))'": "a logarithmic interval must start above 0",
    "'trainer.batch_size=interval(8,16)'": "trainer.batch_size=8.0: must be a whole number",
    "'trainer.max_epochs=range(1,9999)'": "more than 1,000 values",
    "model=lenet5,resnet21": "model=resnet21: no such option",
    f"{LR} hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0: must be a whole number >= 1",
    f"{LR} hydra.sweeper.n_trails=3": "no such key, did you mean hydra.sweeper.n_trials",
    f"{LR} hydra.sweeper.trial=3": "hydra.sweeper.trial=3: must be null",
    f"{LR} hydra.sweeper.sampler=grid": "hydra.sweeper.sampler=grid: must be tpe or random",
    f"{LR} hydra.sweeper.n_jobs=2": "parallel trials require hydra/launcher=joblib",
    f"{LR} hydra.sweeper.storage=study.db": "hydra.sweeper.storage=study.db: must be a URL",
    f"{LR} dataset.val_size=0": "dataset.val_size=0: a study would choose on the test images",
    "dataset.val_size=5000,0": "dataset.val_size=0: a study would choose",
    f"{LR} lr_find=true": "lr_find=true: cannot be combined with a study",
}


@pytest.mark.parametrize(("arguments", "answer"), WRONG.items(), ids=WRONG)
def test_a_mistake_is_answered_in_a_line(arguments, answer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "hydra/sweeper=optuna", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as ended:
        command.command_line("config")
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert answer in said


# Who does which trial


def over(directory: Path, status: str, accuracy: float | None = None) -> Path:
    """What the run of a trial leaves, with such an accuracy in validation."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {"status": status, "chosen_weights": "model", "val_accuracy": accuracy}
    (directory / "result.json").write_text(json.dumps(figures))
    return directory


@pytest.fixture
def begin(tmp_path) -> Callable[..., study.Search]:
    """A process's part in a study of one setting in the same file."""

    def part(n_trials: int = 6, *, fixed=("seed=1",), values=None, file="study.db", **options) -> study.Search:
        return study.open_study(
            storage=f"sqlite:///{tmp_path}/{file}",
            study_name="study",
            space={"x": values or FloatDistribution(0, 1)},
            fixed=fixed,
            directory=tmp_path / "sweep",
            **{"n_trials": n_trials, "sampler": "tpe", "n_startup_trials": 3, "seed": 0} | options,
        )

    return part


def do(search: study.Search, directory: Path) -> list[int]:
    """Do one trial, whose accuracy is the better the nearer x is to 0.3: its number, if there was one to do."""
    numbers = []
    for trial in search.next_trials(1):
        accuracy = 1 - abs(trial.params["x"] - 0.3)
        search.tell(trial.number, over(directory / str(trial.number), "finished", accuracy))
        numbers.append(trial.number)
    return numbers


def chosen(search: study.Search) -> list[float]:
    """What was chosen, trial by trial."""
    return [trial.params["x"] for trial in search.study.get_trials(deepcopy=False)]


def test_a_study_that_goes_on_chooses_as_one_that_was_never_interrupted(begin, tmp_path):
    whole = begin(6)
    while do(whole, tmp_path / "whole"):
        pass
    for n_trials in (1, 4, 6):  # each as a process of its own would, with a sampler of its own
        part = begin(n_trials, file="parts.db")
        while do(part, tmp_path / "parts"):
            pass
        assert len(chosen(part)) == n_trials
    assert chosen(part) == chosen(whole)
    assert len(set(chosen(whole))) == 6
    other = begin(1, file="other.db", seed=1)
    assert other.next_trials(1)[0].params["x"] not in chosen(whole)


def test_what_is_learned_is_used(begin, tmp_path):
    """The last trials lie nearer to the best value than the first, which are evenly spread."""
    search = begin(16, n_startup_trials=6)
    while do(search, tmp_path / "runs"):
        pass
    distances = [abs(x - 0.3) for x in chosen(search)]
    assert sum(distances[10:]) < sum(distances[:6]) / 2
    assert search.best().number == min(range(16), key=distances.__getitem__)


def test_processes_divide_the_trials(begin, tmp_path):
    first, second = begin(7), begin(7)
    with first.hold_lock(), second.hold_lock():
        shares = [[], []]
        for _ in range(5):
            for share, search in zip(shares, (first, second), strict=True):
                share += do(search, tmp_path)
    assert shares == [[0, 2, 4, 6], [1, 3, 5]]


def test_a_trial_is_taken_up_where_its_process_is_no_more(begin, tmp_path):
    first, second = begin(3), begin(3)
    with second.hold_lock():
        with suppress(KeyboardInterrupt), first.hold_lock():
            (trial,) = first.next_trials(1)
            assert [other.number for other in second.next_trials(1)] == [1]
            raise KeyboardInterrupt
        assert [other.number for other in second.next_trials(3)] == [trial.number, 2]
        assert second.next_trials(3) == []  # they are its own now


def test_failed_trials_count_in_the_command_that_saw_them_fail(begin, tmp_path):
    search = begin(2)
    for _ in range(2):
        (trial,) = search.next_trials(1)
        search.tell(trial.number, over(tmp_path / "run", "failed"))
    assert search.next_trials(1) == []
    assert search.best() is None
    assert [trial.number for trial in begin(2).next_trials(5)] == [2, 3]
    assert [trial.state for trial in search.study.trials[:2]] == [TrialState.FAIL] * 2


def test_a_trial_that_is_not_over_is_told_nothing(begin, tmp_path):
    search = begin()
    (trial,) = search.next_trials(1)
    search.tell(trial.number, tmp_path / "nowhere")
    search.tell(trial.number, over(tmp_path / "run", "running"))
    assert search.study.trials[0].state == TrialState.RUNNING
    search.tell(trial.number, over(tmp_path / "run", "finished", 0.5))
    search.tell(trial.number, over(tmp_path / "run", "failed"))  # too late
    assert [(trial.state, trial.value) for trial in search.study.trials] == [(TrialState.COMPLETE, 0.5)]


def test_another_search_is_not_mixed_with_a_study(begin):
    begin(values=CategoricalDistribution(["a", "b"])).next_trials(1)
    with pytest.raises(study.StudyError, match="it was created with seed=1; give another name"):
        begin(fixed=["seed=2"])
    for values in (CategoricalDistribution(["a", "c"]), FloatDistribution(0, 1)):
        with pytest.raises(study.StudyError, match="it searched other values of x"):
            begin(values=values)


def test_what_is_no_database_is_said_in_a_line(begin, tmp_path):
    (tmp_path / "text").write_text("no database " * 99)
    for file in ("text", "text/study.db"):
        with pytest.raises(study.StudyError, match=r"hydra\.sweeper\.storage=sqlite:///") as refused:
            begin(file=file)
        assert "\n" not in str(refused.value)


def spoil(file: Path) -> None:
    """Write something else over a database."""
    file.write_bytes(b"no database " * 9999)


@pytest.mark.parametrize(
    ("damage", "said"), [(Path.unlink, "the file is gone; the same command starts"), (spoil, "file is not a database")]
)
def test_a_database_that_is_lost_in_the_middle_is_said_in_a_line(begin, tmp_path, damage, said):
    """To whoever asks it next: for trials to do, what one has come to, or whether one should end."""
    search = begin()
    do(search, tmp_path)
    (trial,) = search.next_trials(1)
    rules = {"pruner": "median", "n_startup_trials": 3, "n_warmup_epochs": 2}
    place = {"storage": search.storage, "study_name": "study"}
    pruning_callback = study.pruning_callback(**place, **rules, trial=trial.number)
    damage(tmp_path / "study.db")
    left = over(tmp_path / "run", "finished", 0.5)
    asking = (
        lambda: search.next_trials(1),
        lambda: search.tell(trial.number, left),
        lambda: pruning_callback([{"epoch": 1, "val_accuracy": 0.1}]),
    )
    for ask in asking:
        with pytest.raises(study.StudyError, match=said) as lost:
            ask()
        assert "\n" not in str(lost.value)


# What ends early


def test_a_trial_is_pruned_once_others_did_better(begin, tmp_path):
    """By the median of the others' best so far, epoch by epoch, and not before the warm-up; also one that goes on."""
    search = begin()
    rules = {"pruner": "median", "n_startup_trials": 3, "n_warmup_epochs": 2}
    place = {"storage": f"sqlite:///{tmp_path}/study.db", "study_name": "study"}
    for accuracies in ([0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [0.5, 0.6, 0.7]):
        (trial,) = search.next_trials(1)
        pruning_callback = study.pruning_callback(**place, **rules, trial=trial.number)
        records = [{"epoch": epoch, "val_accuracy": value} for epoch, value in zip(count(1), accuracies)]
        for epoch in range(4):
            pruning_callback(records[:epoch])
        search.tell(trial.number, over(tmp_path / "run", "finished", accuracies[-1]))
    (trial,) = search.next_trials(1)
    hopeless = [{"epoch": 1, "val_accuracy": 0.0}, {"epoch": 2, "val_accuracy": 0.1, "val_accuracy_ema": 0.39}]
    pruning_callback = study.pruning_callback(**place, **rules, trial=trial.number)
    pruning_callback([])
    pruning_callback(hopeless[:1])
    with pytest.raises(Pruned, match=r"pruned after 2 epochs: others did better by then than val accuracy 39\.00 %"):
        pruning_callback(hopeless)
    with pytest.raises(Pruned):
        study.pruning_callback(**place, **rules, trial=trial.number)(hopeless)
    assert search.study.trials[-1].intermediate_values == {1: 0.0, 2: 0.39}
    study.pruning_callback(**place, **rules | {"pruner": "none"}, trial=trial.number)(hopeless)
    search.tell(trial.number, over(tmp_path / "run", "pruned"))
    assert search.study.trials[-1].state == TrialState.PRUNED
    (trial,) = search.next_trials(1)
    study.pruning_callback(**place, **rules, trial=trial.number)([hopeless[0], {"epoch": 2, "val_accuracy": 0.41}])


def test_a_study_without_held_out_images_is_none(begin, tmp_path):
    (trial,) = begin().next_trials(1)
    pruning_callback = study.pruning_callback(
        storage=f"sqlite:///{tmp_path}/study.db",
        study_name="study",
        trial=trial.number,
        pruner="none",
        n_startup_trials=1,
        n_warmup_epochs=1,
    )
    with pytest.raises(study.StudyError, match="val_size"):
        pruning_callback([{"epoch": 1, "train_accuracy": 0.5}])


def test_a_run_is_judged_before_each_epoch_and_not_at_its_end(train, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "pruning_callback", lambda sweeper: lambda records: seen.append(len(records)))
    train("trainer.max_epochs=3")
    assert seen == [0, 1, 2]


# The picture


@pytest.mark.slow
def test_the_setting_that_matters_has_the_share_of_it_and_all_are_drawn(tmp_path):
    place = optuna.create_study(direction="maximize", storage=study.database(f"sqlite:///{tmp_path}/study.db"))
    space = {
        "lr": FloatDistribution(0.01, 1, log=True),
        "width": IntDistribution(1, 64),
        "model": CategoricalDistribution(["a", "b"]),
    }
    for number in range(20):
        params = {"lr": 10 ** (-0.1 * number), "width": 1 + number * 7 % 20, "model": "ab"[number * 11 % 19 % 2]}
        ended = {"value": 1 - 0.05 * number} if number % 5 else {"state": TrialState.PRUNED}
        place.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=space, intermediate_values={1: 0.1} if number else {}, **ended
            )
        )
    shares = study.importances(place, list(space))
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "lr"
    study.draw(place, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as picture:
        assert picture.size == (2 * 608, 2 * 512)  # four panels

    one_more = {"params": {"lr": 0.1, "width": 3, "model": "a", "more": 1}, "state": TrialState.FAIL}
    place.add_trial(optuna.trial.create_trial(distributions={**space, "more": IntDistribution(1, 3)}, **one_more))
    assert study.importances(place, [*space, "more"]) == shares, "no finished trial has the other setting"


# The whole


def command_of(*words: str) -> list[str]:
    """The words of a study on the small images."""
    return [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "hydra/sweeper=optuna", *words]


def done(cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """A study from its beginning to its end."""
    return subprocess.run(command_of(*words), cwd=cwd, capture_output=True, text=True, timeout=280)


def runs(place: Path) -> dict[str, dict]:
    """result.json of each run by the name of its directory."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(place.glob("*/result.json"))}


@pytest.mark.slow
def test_a_study_and_the_same_command_again(tmp_path):
    """Its trials are done once; one that has no hope beside planted ones ends early, which is no failure."""
    words = ("optimizer.lr=tag(log,interval(0.01,0.1))", "sweep=lr", "hydra.sweeper.n_startup_trials=1")
    words += ("hydra.sweeper.n_warmup_epochs=1",)
    first = done(tmp_path, *words, "hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=none")
    assert (first.returncode, first.stderr) == (0, "")
    place = tmp_path / "multirun" / "lr"
    found = runs(place)
    assert [result["status"] for result in found.values()] == ["finished"] * 2
    best = max(found, key=lambda name: found[name]["val_accuracy"])
    metrics = [json.loads(line) for line in (place / best / "metrics.jsonl").read_text().splitlines()]
    said = f"val accuracy {100 * max(record['val_accuracy'] for record in metrics):.2f} %; to repeat it:"
    assert said in first.stdout
    repeat = next(line for line in first.stdout.splitlines() if line.startswith("python train.py"))
    assert shlex.split(repeat)[2 : 2 + len(SMALL)] == list(SMALL)
    assert (place / "study.png").read_bytes().startswith(b"\x89PNG")
    kept = optuna.load_study(study_name="study", storage=f"sqlite:///{place}/study.db")
    planted = optuna.trial.create_trial(
        params={"optimizer.lr": 0.05},
        distributions=kept.trials[0].distributions,
        value=1.0,
        intermediate_values={1: 1.0, 2: 1.0},
    )
    for _ in range(3):
        kept.add_trial(planted)
    again = done(tmp_path, *words, "hydra.sweeper.n_trials=6")
    assert (again.returncode, again.stderr) == (0, "")
    more = runs(place)
    assert {name: more[name] for name in found} == found
    (new,) = more.keys() - found.keys()
    assert (more[new]["status"], more[new]["epochs"]) == ("pruned", 1)
    assert "trial 5: pruned" in again.stdout
    assert f"{new}: pruned after 1 epoch\n" in again.stdout
    assert (place / new / "checkpoints" / "last.pt").is_file()


@pytest.mark.slow
def test_trials_that_fail_or_cannot_be_among_others(tmp_path):
    """They are named at the end with status 1, and the study knows them as failed."""
    words = ("optimizer.lr=0.01,1000", "regularization.weight_decay.rate=1", "scheduler=constant", "sweep=lr")
    words += ("scheduler.warmup_epochs=0,1", "trainer.max_epochs=2,1", "hydra.sweeper.sampler=random")
    ended = done(tmp_path, *words, "hydra.sweeper.n_trials=6")
    assert ended.returncode == 1
    place = tmp_path / "multirun" / "lr"
    trials = optuna.load_study(study_name="study", storage=f"sqlite:///{place}/study.db").trials
    diverges = [trial.params["optimizer.lr"] == "1000" for trial in trials]
    cannot_be = [trial.params["scheduler.warmup_epochs"] >= trial.params["trainer.max_epochs"] for trial in trials]
    failed = [trial.state == TrialState.FAIL for trial in trials]
    assert failed == [either or other for either, other in zip(diverges, cannot_be, strict=True)]
    assert 0 < sum(failed) < len(failed)
    assert any(cannot_be)
    lost = [name for name, result in runs(place).items() if result["status"] == "failed"]
    assert ended.stderr.splitlines()[-1].endswith(f"jobs failed: {', '.join(lost)}")
    assert {f"trial{number}" for number, is_so in enumerate(cannot_be) if is_so} < set(lost)
    assert "scheduler.warmup_epochs=1: must be a number >= 0, < trainer.max_epochs (1)" in ended.stderr


@pytest.mark.slow
def test_two_processes_do_the_trials_of_one_study_once(tmp_path):
    """In directories of their own, as on two machines, one of which is killed: the other takes up what it left."""
    words = ("optimizer.lr=interval(0.01,0.1)", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db")
    words += ("hydra.sweeper.n_trials=5", "trainer.max_epochs=8", "hydra.sweeper.pruner=none")
    both = [
        subprocess.Popen(command_of(*words, f"hydra.sweep.dir={tmp_path / name}"), stdout=subprocess.DEVNULL)
        for name in ("killed", "other")
    ]
    until = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*/checkpoints/last.pt")):
        assert time.monotonic() < until
        time.sleep(0.01)
    both[0].kill()
    assert both[0].wait() != 0
    assert both[1].wait(timeout=200) == 0
    trials = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/study.db").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    results = runs(tmp_path / "killed") | runs(tmp_path / "other")
    assert sorted(result["val_accuracy"] for result in results.values()) == sorted(trial.value for trial in trials)
