"""Sweeps: a directory for each configuration, jobs that fail, sweeps that go on; and the table of what they came to."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from scipy import stats

from engine.config import identity
from engine.config.choices import chosen_options
from engine.plotting import plot
from engine.run.console import Console
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.run.exit import exit_on_signal
from engine.run.signals import Interrupted
from engine.sweep import __main__, gpu_slots, jobs, leaderboard, leaderboard_figures
from tests.support.runs import ROOT, SMALL, composed

# Identity


def job_of(*overrides: str, name: str = "x=1", directory: str = "nowhere"):
    """A job's whole configuration, as Hydra has it when it asks for the directory."""
    config = composed(*overrides, hydra=True)
    OmegaConf.set_readonly(config, False)
    config.hydra.job.override_dirname = name
    config.hydra.sweep.dir = directory
    return config


def test_identity_follows_from_what_alters_the_result_and_nothing_else():
    first = identity.identity(job_of("model=resnet20"))
    assert first == identity.identity(
        job_of("model=resnet20", "trainer.device=cpu", "sweep=other", "dataset.root=here")
    )
    assert first == identity.identity(job_of("seed=0", "model=resnet20", "trainer.batch_size=128"))
    others = ("seed=1", "model=resnet32", "optimizer.lr=0.2", "regularization=[]", "augmentation.crop.padding=2")
    assert len({first, *(identity.identity(job_of(other)) for other in others)}) == len(others) + 1


def test_another_folder_of_images_is_another_job():
    first, other = (identity.identity(job_of("dataset=folder", f"dataset.root={root}")) for root in ("a", "b"))
    assert first != other


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("model=lenet5,seed=0", "model=lenet5,seed=0"),
        ("regularization=[weight_decay,mixup],seed=3", "regularization=_weight_decay,mixup_,seed=3"),
        ("dataset.root=/a b/ü$(touch x)", "dataset.root=_a_b_ü_touch_x"),
        ("a=../../b", "a=.._.._b"),
        ("", "job"),
        ("k=" + "v" * 999, "k=" + "v" * 98),
    ],
)
def test_names_of_directories_can_be_read_and_lead_nowhere_else(said, name):
    found = identity.job_directory(_root_=job_of(name=said))
    assert found.rpartition("-")[0] == name
    assert len(found.rpartition("-")[2]) == 8


def test_a_job_keeps_its_directory_whatever_the_command_calls_it(tmp_path):
    config = job_of(name="seed=0", directory=str(tmp_path))
    (tmp_path / identity.job_directory(_root_=config)).mkdir()
    config.hydra.job.override_dirname = "model=resnet20,seed=0"
    assert identity.job_directory(_root_=config).startswith("seed=0-")


# One job


@pytest.fixture
def do(monkeypatch, tmp_path):
    """Do a job of a sweep with some other work in place of training."""
    monkeypatch.setattr(Console, "label", "")
    monkeypatch.setattr(jobs.Table, "directory", None)
    monkeypatch.setattr(jobs.Table, "jobs", None)
    done = []

    def run(
        work=lambda config, run: None, *, name="job", on_error="continue", launcher="basic", device="auto"
    ) -> list[str | None]:
        def noting(config, run):
            done.append(config.resume)
            work(config, run)

        choices = {"model": "lenet5", "hydra/launcher": launcher}
        hydra = OmegaConf.create({"runtime": {"choices": choices}, "job": {"num": 1}})
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
        config = OmegaConf.create(
            {"resume": None, "sweep_on_error": on_error, "sweep_jobs_per_gpu": 1, "trainer": {"device": device}}
        )
        jobs.run_job(config, RunDirectory(tmp_path / name), noting)
        return done

    return run


def fail(config, run):
    """What goes wrong."""
    raise RunError("in\ntwo lines")


def test_a_finished_job_is_not_done_again(do, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "result.json").write_text('{"status": "finished"}')
    assert do() == []


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_any_other_job_goes_on_from_its_checkpoint_if_it_has_one(do, tmp_path, status):
    (tmp_path / "job" / "checkpoints").mkdir(parents=True)
    (tmp_path / "job" / "result.json").write_text(json.dumps({"status": status}))
    assert do() == [None]
    (tmp_path / "job" / "checkpoints" / "last.pt").touch()
    assert do() == [None, str(tmp_path / "job")]


def test_a_job_that_fails_leaves_its_reason_and_the_next_one_begins(do, tmp_path, capsys):
    assert do(fail) == [None]
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result == {"status": "failed", "error": "in two lines", "epochs": 0}
    assert "RunError: in\ntwo lines" in (tmp_path / "job" / "traceback.txt").read_text()
    assert capsys.readouterr().err.endswith("/job: failed: in two lines\n")
    assert do(name="next") == [None, None]
    assert RunDirectory(tmp_path / "job").status == "failed"


def test_a_mistake_in_the_program_is_no_reason_to_end_a_sweep_either(do, tmp_path):
    do(lambda config, run: 1 / 0)
    assert RunDirectory(tmp_path / "job").status == "failed"
    assert "ZeroDivisionError" in (tmp_path / "job" / "traceback.txt").read_text()


def test_what_a_run_had_written_stays_beside_the_reason(do, tmp_path):
    def work(config, run):
        run.result.write_text('{"status": "failed", "epochs": 7, "params": 5}')
        raise RunError("diverged")

    do(work)
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result == {"status": "failed", "epochs": 7, "params": 5, "error": "diverged"}


def test_where_it_is_asked_for_nothing_begins_behind_a_failure_until_the_command_is_given_again(do, tmp_path):
    do(fail, on_error="stop")
    assert do(name="next", on_error="stop") == [None]
    assert not (tmp_path / "next").exists()
    choices = {"hydra/launcher": "basic", "hydra/sweeper": "basic"}
    hydra = {"sweep": {"dir": str(tmp_path)}, "runtime": {"choices": choices}, "overrides": {"task": ["seed=0,1"]}}
    jobs.Table().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert do(name="next", on_error="stop") == [None, None]


def test_a_job_says_which_of_how_many_it_is(do, monkeypatch, caplog):
    monkeypatch.setattr(jobs.Table, "jobs", 6)
    with caplog.at_level(logging.INFO):
        do()
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == ["job 2 of 6"]


def test_a_job_that_another_process_is_at_is_left_alone(do, tmp_path):
    with RunDirectory(tmp_path / "job").in_use():
        assert do() == []


def test_a_signal_ends_the_sweep(do, tmp_path):
    def work(config, run):
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        do(work)
    assert not (tmp_path / "job" / "result.json").exists()


def test_the_signal_goes_to_whoever_heeded_it_before_once_the_directory_is_free(do, tmp_path):
    """As submitit, which has the job begin again: in the same directory."""
    heard = []

    def raise_if_signalled(number, frame):
        with RunDirectory(tmp_path / "job").in_use():
            heard.append(number)

    def work(config, run):
        (run.path / "something").touch()
        signal.raise_signal(signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, raise_if_signalled)
    try:
        with pytest.raises(Interrupted):
            do(work)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


# Jobs beside each other


def said(config, run):
    """What says something."""
    record = logging.LogRecord("cifar", logging.INFO, "", 0, "one\ntwo", (), None)
    print(Console().format(record))


def test_the_lines_of_jobs_beside_each_other_say_whose_they_are(do, capsys):
    do(said, name="model=resnet20,seed=0-0123abcd")
    assert capsys.readouterr().out == "one\ntwo\n"
    for launcher in jobs.PARALLEL:
        do(said, name="model=resnet20,seed=0-0123abcd", launcher=launcher)
        assert capsys.readouterr().out == "model=resnet20,seed=0 | one\nmodel=resnet20,seed=0 | two\n"
    do(said, name=f"{'x' * 60}=1-0123abcd", launcher="joblib")
    assert capsys.readouterr().out.startswith(f"{'x' * 20}...{'x' * 9}=1-0123abcd | one\n")


def test_a_job_beside_others_computes_on_one_gpu_that_no_other_has(do, monkeypatch, tmp_path):
    seen = []

    def work(config, run):
        seen.append(os.environ.get(gpu_slots.VISIBLE))
        if len(seen) == 1:
            monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
            do(work, name="other", launcher="joblib")

    monkeypatch.setattr(gpu_slots, "locks", lambda: tmp_path / "locks")
    monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
    do(work, launcher="joblib")
    assert seen == ["0", "1"]
    monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
    do(work, launcher="joblib", name="on the processor", device="cpu")
    do(work, launcher="submitit_slurm", name="where the cluster sees to it")
    assert seen[2:] == ["0,1", "0,1"]


# The whole


def sweep_command(cwd: Path, *words: str) -> list[str]:
    """The words of a sweep on the small images."""
    return [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *words]


def done(cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """A sweep from its beginning to its end."""
    return subprocess.run(sweep_command(cwd, *words), cwd=cwd, capture_output=True, text=True, timeout=300)


def left(directory: Path) -> dict[str, object]:
    """What a sweep leaves that does not depend on the clock, by the names of its jobs."""
    found = {}
    for file in sorted(directory.glob("*/checkpoints/last.pt")):
        run = RunDirectory(file.parent.parent)
        state = torch.load(file, weights_only=True)["state"]
        records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        figures = [{key: record[key] for key in ("train_loss", "val_loss", "val_accuracy")} for record in records]
        found[run.path.name] = (state["model"], figures, json.loads(run.result.read_text())["test_accuracy"])
    return found


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_with_the_same_command(tmp_path):
    """And ends as one that was not; with one more value, only that is new."""
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
    words = ("seed=0,1,2", "trainer.max_epochs=4", "sweep=seeds")
    with subprocess.Popen(sweep_command(tmp_path / "killed", *words), cwd=tmp_path / "killed") as process:
        place, until = tmp_path / "killed" / "multirun" / "seeds", time.monotonic() + 120
        while process.poll() is None and len(list(place.glob("*/checkpoints/last.pt"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.005)
        process.kill()
    again = done(tmp_path / "killed", *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") + again.stdout.count("going on") >= 2
    undisturbed = done(tmp_path / "undisturbed", *words)
    assert undisturbed.returncode == 0, undisturbed.stderr
    found, expected = (left(tmp_path / name / "multirun" / "seeds") for name in ("killed", "undisturbed"))
    assert found.keys() == expected.keys()
    assert len(found) == 3
    for name in expected:
        assert found[name][1:] == expected[name][1:]
        assert all(torch.equal(value, expected[name][0][key]) for key, value in found[name][0].items())
    more = done(tmp_path / "killed", "seed=0,1,2,3", "trainer.max_epochs=4", "sweep=seeds")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("finished already") == 3
    assert len(left(place)) == 4


def test_a_job_that_fails_among_others(tmp_path):
    """It is named at the end, the others are in the table, and the status is 1; the table can be had again."""
    words = ("optimizer.lr=0.01,1000", "regularization.weight_decay.rate=1", "scheduler=constant", "sweep=rates")
    ended = done(tmp_path, *words)
    assert ended.returncode == 1
    place = tmp_path / "multirun" / "rates"
    (lost,) = [file.parent for file in place.glob("*/traceback.txt")]
    assert lost.name.startswith("optimizer.lr=1000-")
    said = ended.stderr.splitlines()
    assert said[0].startswith(f"multirun/rates/{lost.name}: failed: the train loss became")
    assert said[1:] == [f"train.py: 1 of 2 jobs failed: {lost.name}"]
    assert json.loads((lost / "result.json").read_text())["status"] == "failed"
    assert len((place / "leaderboard.csv").read_text().splitlines()) == 2
    assert sorted(file.name for file in place.glob("*.png")) == [
        f"leaderboard_{name}.png" for name in ("curves", "parameters", "time")
    ]
    table = subprocess.run(
        [sys.executable, "-m", "engine.sweep", str(place)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert table.returncode == 0, table.stderr
    assert f"{lost.name}: failed after 0 epochs: the train loss" in table.stdout
    assert "written to" in table.stdout


@pytest.mark.slow
def test_jobs_beside_each_other_end_as_jobs_behind_each_other(tmp_path):
    """With a share of the cores each; one that fails is named here as well."""
    words = ("optimizer.lr=0.01,0.02,1000", "regularization.weight_decay.rate=1", "scheduler=constant", "sweep=rates")
    for name, more in (("beside", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")), ("behind", ())):
        (tmp_path / name).mkdir()
        ended = done(tmp_path / name, *words, *more)
        assert ended.returncode == 1
        assert "train.py: 1 of 3 jobs failed: optimizer.lr=1000-" in ended.stderr
        epochs = [line for line in ended.stdout.splitlines() if "epoch 1/" in line]
        labels = [f"optimizer.lr={rate} | " if name == "beside" else "" for rate in (0.01, 0.02)]
        assert sorted(line.partition("epoch")[0] for line in epochs) == labels
    found, expected = (left(tmp_path / name / "multirun" / "rates") for name in ("beside", "behind"))
    share = int(os.environ.get("OMP_NUM_THREADS", max(joblib.cpu_count() // 2, 1)))
    expected_device = f"cpu, {share} thread{'s' * (share > 1)}"
    results = [json.loads(file.read_text()) for file in (tmp_path / "beside").rglob("result.json")]
    assert [result["device"] for result in results if result["status"] == "finished"] == [expected_device] * 2
    assert {name: figures[1] for name, figures in found.items()} == {
        name: figures[1] for name, figures in expected.items()
    }
    assert len(found) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    ("send", "number"),
    [("killpg", signal.SIGINT), ("killpg", signal.SIGHUP), ("killpg", signal.SIGTERM), ("kill", signal.SIGTERM)],
)
def test_a_signal_ends_jobs_beside_each_other_with_their_checkpoints(tmp_path, send, number, with_sighup):
    """Sent to all processes, as by a terminal, or to the one that waits for the others; no third job begins."""
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep_estimate=false")
    command = sweep_command(tmp_path, "seed=0,1,2", "trainer.max_epochs=5000", "sweep=s", *launcher)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("multirun/s/*/checkpoints/last.pt"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        getattr(os, send)(process.pid, number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    if number != signal.SIGHUP:  # which ends multiprocessing's own process as well; but then nobody reads what it says
        assert "Traceback" not in error
    assert out.splitlines()[-1] == "stopped; to resume: the same command with sweep=s"
    results = [json.loads(file.read_text())["status"] for file in tmp_path.glob("multirun/s/*/result.json")]
    assert results == ["interrupted"] * 2


def test_ctrl_c_where_no_run_heeds_it_says_how_to_go_on(monkeypatch, capsys):
    """Before there is a sweep there is nothing to say."""
    for directory, said in ((None, ""), (Path("multirun/s"), "stopped; to resume: the same command with sweep=s\n")):
        monkeypatch.setattr(jobs.Table, "directory", directory)
        with pytest.raises(SystemExit) as ended, exit_on_signal(lambda: jobs.Table.directory):
            signal.raise_signal(signal.SIGINT)
        assert (ended.value.code, capsys.readouterr().out) == (130, said)


def test_where_there_are_no_runs_there_is_no_table(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "engine.sweep", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (2, f"python -m engine.sweep: {tmp_path}: there are no runs\n")


def test_a_sweep_that_there_is_not_is_answered_with_the_one_that_is_meant(tmp_path, monkeypatch, capsys):
    (tmp_path / "archs").mkdir()
    (tmp_path / "archs" / "multirun.yaml").touch()
    for name, said in (("arch", "no such directory, did you mean archs?"), ("rates", "no such directory")):
        monkeypatch.setattr(sys, "argv", ["sweep", str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        assert (ended.value.code, capsys.readouterr().err) == (
            2,
            f"python -m engine.sweep: {tmp_path / name}: {said}\n",
        )


def test_a_sweep_has_as_many_jobs_as_combinations_and_a_study_as_many_as_trials():
    config = composed(hydra=True)
    config.hydra.overrides.task = ["seed=0,1,2", "optimizer.lr=choice(0.1,0.2)", "trainer.max_epochs=3"]
    assert jobs.count_jobs(config) == 6
    config = composed("hydra/sweeper=optuna", "hydra.sweeper.n_trials=7", hydra=True)
    config.hydra.overrides.task = ["optimizer.lr=interval(0.1,0.2)"]
    assert jobs.count_jobs(config) == 7


# The table


def written(directory: Path, config: dict[str, object], choices: dict[str, object]) -> None:
    """What Hydra leaves of a run."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))


def finished(directory: Path, words: list[str], seed: int, test: float, val: float | None, **more: object) -> None:
    """What a finished run leaves, with such accuracies; the words choose options."""
    choices = dict(word.split("=") for word in words)
    config = {group: {"_target_": option} for group, option in choices.items()} | {"seed": seed}
    written(directory, config, choices)
    result = {
        "status": "finished",
        "model": "resnet20",
        "seed": seed,
        "test_accuracy": test,
        "chosen_weights": "model",
        "params": 10,
        "multiply_adds": 20_000_000,
        "images_per_second": 100.0 + seed,
        "seconds": 60.0 * (seed + 1),
        "epochs": 2,
        **({"val_accuracy": val} if val is not None else {}),
        **more,
    }
    (directory / "result.json").write_text(json.dumps(result))
    records = [
        {"epoch": epoch, "train_accuracy": test / 2, **({"val_accuracy": val} if val else {})} for epoch in (1, 2)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


ACCURACIES = {"a": [0.70, 0.72, 0.74], "b": [0.81, 0.80, 0.85], "c": [0.60, 0.66]}


@pytest.fixture
def runs(tmp_path):
    """Three configurations: two with three seeds, one with two."""
    for name, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            finished(tmp_path / f"{name}{seed}", [f"optimizer={name}", "scheduler=x"], seed, accuracy, accuracy + 0.01)
    return leaderboard.read_runs(tmp_path)


def test_rows_are_configurations_the_best_in_validation_first(runs):
    found = leaderboard.rows(runs)
    assert [row.settings["optimizer"] for row in found] == ["b", "a", "c"]
    assert leaderboard.varied(runs) == ["optimizer"]
    figures = leaderboard.row_figures(found[0], found[0])
    assert figures["test_accuracy"] == pytest.approx(np.mean(ACCURACIES["b"]))
    assert figures["test_accuracy_std"] == pytest.approx(np.std(ACCURACIES["b"], ddof=1))
    assert figures["val_accuracy"] == pytest.approx(np.mean(ACCURACIES["b"]) + 0.01)
    assert (figures["seeds"], figures["images_per_second"], figures["seconds"]) == (3, 101, 120)
    assert figures["difference"] is None


@pytest.fixture
def table(tmp_path):
    """The columns and the rows of finished runs with such commands, as real configurations."""

    def of(*commands: list[str]) -> tuple[list[str], list[tuple[str, ...]]]:
        for number, words in enumerate(commands):
            config = composed(*words, f"seed={number}", hydra=True)
            choices = OmegaConf.to_container(config.hydra.runtime.choices)
            plain = OmegaConf.to_container(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
            finished(tmp_path / str(number), [], number, 0.5, 0.9 - number / 10, **chosen_options(config, config.hydra))
            shutil.rmtree(tmp_path / str(number) / ".hydra")
            written(tmp_path / str(number), plain, choices)
        runs = leaderboard.read_runs(tmp_path)
        return leaderboard.varied(runs), [tuple(row.settings.values()) for row in leaderboard.rows(runs)]

    return of


def test_a_default_that_a_command_says_makes_no_row_of_its_own(table):
    said = ["model=resnet20", "trainer.batch_size=128", "optimizer.lr=0.1", "trainer.device=cpu", "sweep=x"]
    assert table([], said, ["trainer.batch_size=64"]) == (["trainer.batch_size"], [("128",), ("64",)])


def test_options_are_columns_and_what_comes_with_them_is_not(table):
    titles, rows = table(
        ["optimizer=adam"],
        ["optimizer=sgd", "optimizer.lr=0.2"],
        ["optimizer=sgd", "regularization=[weight_decay,mixup,ema]"],
        ["model=vgg16", "regularization=[dropout]"],
        ["+attention@model.block_attention=se"],
    )
    assert titles == ["model", "optimizer", "regularization", "attention@model.block_attention", "optimizer.lr"]
    assert rows == [
        ("resnet20", "adam", "[weight_decay]", "-", "0.001"),
        ("resnet20", "sgd", "[weight_decay]", "-", "0.2"),
        ("resnet20", "sgd", "[ema,mixup,weight_decay]", "-", "0.1"),
        ("vgg16", "sgd", "[dropout]", "-", "0.1"),
        ("resnet20", "sgd", "[weight_decay]", "se", "0.1"),
    ]


def test_attention_that_comes_with_a_network_is_no_column(table):
    assert table(["model=resnet20"], ["model=se_resnet20"], ["model=bam_resnet20"])[0] == ["model"]


def ticks(low: float, high: float, *how: object) -> list[str]:
    """The names along an axis from `low` to `high`."""
    _, (panel,) = plot.figure(width=4, height=3)
    panel.set(xscale="log", xlim=(low, high))
    plot.name_ticks(panel, *how)
    assert not list(panel.get_xticks(minor=True))
    assert all(low <= tick <= high for tick in panel.get_xticks())
    return [label.get_text() for label in panel.get_xticklabels()]


def test_ticks_of_a_logarithmic_axis_are_numbers_that_a_person_reads():
    counts, times = (plot.COUNTS, plot.count), (plot.TIMES, plot.duration)
    assert ticks(1.8e5, 2.3e6, *counts) == ["0.2 M", "0.5 M", "1 M", "2 M"]
    assert ticks(2.6e5, 2.9e5, *counts) == ["0.26 M", "0.27 M", "0.28 M", "0.29 M"]
    assert ticks(270_010, 270_031, *counts) == ["0.27001 M", "0.270015 M", "0.27002 M", "0.270025 M", "0.27003 M"]
    assert ticks(40_000, 1.1e6, *counts) == ["50 k", "0.1 M", "0.2 M", "0.5 M", "1 M"]
    assert ticks(25, 700, *times) == ["30 s", "60 s", "2 min", "5 min", "10 min"]
    assert ticks(3000, 80_000, *times) == ["60 min", "2 h", "5 h", "10 h", "20 h"]
    assert ticks(100, 104, *times) == ["100 s", "101 s", "102 s", "103 s", "104 s"]
    assert len(ticks(1, 1e6, *times)) <= plot.MOST_TICKS


def test_differences_with_the_same_seeds_are_those_of_pairs(runs):
    best, other, _ = leaderboard.rows(runs)
    figures = leaderboard.row_figures(other, best)
    interval = stats.ttest_rel(ACCURACIES["a"], ACCURACIES["b"]).confidence_interval()
    assert figures["difference"] - figures["difference_ci"] == pytest.approx(interval.low)
    assert figures["difference"] + figures["difference_ci"] == pytest.approx(interval.high)


def test_differences_with_other_seeds_are_welchs(runs):
    best, _, other = leaderboard.rows(runs)
    figures = leaderboard.row_figures(other, best)
    interval = stats.ttest_ind(ACCURACIES["c"], ACCURACIES["b"], equal_var=False).confidence_interval()
    assert figures["difference"] - figures["difference_ci"] == pytest.approx(interval.low)
    assert figures["difference"] + figures["difference_ci"] == pytest.approx(interval.high)


def test_of_a_single_seed_there_is_no_deviation(tmp_path):
    for name, accuracy in (("a", 0.5), ("b", 0.6)):
        finished(tmp_path / name, [f"optimizer={name}"], 0, accuracy, None)
    runs = leaderboard.read_runs(tmp_path)
    figures = leaderboard.row_figures(*leaderboard.rows(runs)[::-1])
    assert (figures["test_accuracy_std"], figures["difference_ci"], figures["val_accuracy"]) == (None, None, None)
    assert figures["difference"] == pytest.approx(0.1)
    assert "+10.00" in leaderboard.as_text(runs)


def test_the_accuracy_in_validation_is_that_of_the_weights_that_were_chosen(tmp_path):
    finished(tmp_path / "a", [], 0, 0.5, 0.6, chosen_weights="ema", val_accuracy_ema=0.7)
    (run,) = leaderboard.read_runs(tmp_path)
    assert run.val_accuracy == 0.7


def test_what_is_not_finished_makes_a_column_as_well(tmp_path):
    """So that the only row there is yet says what it is."""
    for name, options in (("a", ["optimizer=sgd"]), ("b", ["optimizer=adam"])):
        finished(tmp_path / name, options, 0, 0.5, 0.6, regularization=[])
    result = tmp_path / "b" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"status": "interrupted", "epochs": 2}))
    runs = leaderboard.read_runs(tmp_path)
    assert leaderboard.varied(runs) == ["optimizer"]
    assert [row.settings for row in leaderboard.rows(runs)] == [{"optimizer": "sgd"}]


def test_sizes_that_all_rows_share_stand_below_the_table(runs, tmp_path):
    titles, *body = leaderboard.as_text(runs).splitlines()
    assert "parameters" not in titles
    assert "each network: 10 parameters, 20.0 M multiply-adds" in body
    finished(tmp_path / "d", ["optimizer=d"], 0, 0.5, 0.6, params=11)
    titles, *body = leaderboard.as_text(leaderboard.read_runs(tmp_path)).splitlines()
    assert "parameters" in titles
    assert "each network: 20.0 M multiply-adds" in body


def test_the_axis_of_epochs_has_whole_numbers():
    _, (panel,) = plot.figure(width=4, height=3)
    for last in (1, 2, 3, 60):
        panel.clear()
        panel.plot(range(1, last + 1), range(last))
        plot.whole_ticks(panel)
        low, high = panel.get_xlim()
        shown = [tick for tick in panel.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)


def test_text_markdown_and_numbers_say_the_same(runs, tmp_path):
    found = leaderboard.rows(runs)
    text, markdown, table = leaderboard.as_text(runs), leaderboard.as_markdown(found), leaderboard.as_csv(found)
    assert "82.00 +- 2.65" in text
    assert "| b | 3 | 83.00 +- 2.65 | 82.00 +- 2.65 | - | 10 | 20.0 M | 101 | 2:00 |" in markdown
    titles, *rows = [line.split(",") for line in table.splitlines()]
    assert float(rows[0][titles.index("test_accuracy")]) == pytest.approx(0.82)
    assert [row[0] for row in rows] == ["b", "a", "c"]
    leaderboard_figures.write(runs, tmp_path)
    for name in ("parameters", "time", "curves"):
        assert (tmp_path / f"leaderboard_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_not_finished_is_named_and_not_counted(runs, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "result.json").write_text('{"status": "failed", "epochs": 1, "error": "why"}')
    again = leaderboard.read_runs(tmp_path)
    assert leaderboard.as_csv(leaderboard.rows(again)) == leaderboard.as_csv(leaderboard.rows(runs))
    assert "d: failed after 1 epoch: why" in leaderboard.as_text(again)


def test_a_run_that_still_runs_has_as_many_epochs_as_figures(runs, tmp_path):
    """result.json is of its beginning."""
    file = tmp_path / "a0" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running", "epochs": 0}))
    assert "a0: running after 2 epochs" in leaderboard.as_text(leaderboard.read_runs(tmp_path))


def test_of_two_runs_with_the_same_seed_the_last_counts(runs, tmp_path):
    """As of two sweeps below one folder that have a configuration in common."""
    finished(tmp_path / "later", ["optimizer=c", "scheduler=x"], 1, 0.5, 0.7)
    (row,) = [row for row in leaderboard.rows(leaderboard.read_runs(tmp_path)) if row.settings["optimizer"] == "c"]
    figures = leaderboard.row_figures(row, row)
    assert figures["seeds"] == 2
    assert figures["test_accuracy"] == pytest.approx((0.60 + 0.5) / 2)
    assert figures["val_accuracy"] == pytest.approx((0.61 + 0.7) / 2)


def test_names_with_signs_of_formulas_are_drawn(tmp_path):
    for name in ("a $x_{ $ b", "_c", "d"):
        finished(tmp_path / name, [f"optimizer={name}"], 0, 0.5, 0.6)
    leaderboard_figures.write(leaderboard.read_runs(tmp_path), tmp_path)
    assert (tmp_path / "leaderboard_curves.png").stat().st_size > 1000


def test_without_a_table_the_failed_jobs_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "result.json").write_text('{"status": "failed"}')
    monkeypatch.setattr(jobs, "show", lambda directory: {}["train_accuracy"])
    table = jobs.Table()
    table.begun, table.lost = 0.0, []
    with pytest.raises(SystemExit) as ended:
        table.on_multirun_end(job_of(directory=str(tmp_path)))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "there is no table: 'train_accuracy'" in said
    assert "jobs failed: job" in said
