"""An interrupted run that is resumed ends bitwise as if it had never been interrupted."""

import copy
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from engine.build import autotune, objects
from engine.config.command import command_line
from engine.device.seeds import random_states, restore_random_states
from engine.run.directory import RunDirectory
from engine.sweep.leaderboard import read_run
from tests.support.marks import slow_except
from tests.support.runs import (
    ROOT,
    SMALL,
    Run,
    composed,
    curves,
    figures,
    interrupt_after,
    option_names,
    same,
    train_small,
)
from tests.support.steps import tiny_splits

# Every part of the state is in use: momentum, all regularizers, two kinds of schedule at once.
SETTINGS = (
    "model=resnet20",
    "model.depths=[1,1,1]",
    f"regularization=[{','.join(option_names('regularization'))}]",
    "regularization.swa.start=1",
    "scheduler=cosine",
    "scheduler.warmup_epochs=1",
    "trainer.gradient_accumulation=2",
    "trainer.max_epochs=3",
)
STEPS_PER_EPOCH = 3
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    """A run that nobody interrupted."""
    return train_small(tmp_path_factory.mktemp("undisturbed") / "run", *SETTINGS)


@pytest.mark.parametrize("steps", slow_except([2 * STEPS_PER_EPOCH + 2], [1, 2, 3, 6, 8]))
def test_resumed_equals_undisturbed(undisturbed, train, monkeypatch, tmp_path, steps):
    """Interrupted in the first step, within epochs and at their ends."""
    directory = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(SystemExit) as exit_:
            train(*SETTINGS, directory=directory)
    assert exit_.value.code == 130
    resumed = train(*SETTINGS, f"resume={directory}", directory=directory)

    for name in ("last", "best"):
        first, second = undisturbed.checkpoint(name), resumed.checkpoint(name)
        for state in (first["state"], second["state"]):
            del state["seconds"]
            state["records"] = figures(state["records"])
        assert same(first["state"], second["state"])
    assert figures(resumed.metrics) == figures(undisturbed.metrics)
    assert figures([resumed.result]) == figures([undisturbed.result])
    assert curves(resumed.directory.tensorboard) == curves(undisturbed.directory.tensorboard)


@pytest.mark.parametrize("optimizer", option_names("optimizer"))
def test_every_optimizer_resumes_from_its_state(optimizer):
    """Through the state of a run, as a checkpoint keeps it; the other network begins with other weights."""
    config = composed("model=lenet5", "trainer.device=cpu", "trainer.batch_size=4", f"optimizer={optimizer}")
    backend, splits = autotune.possible_backends(config)[0], tiny_splits()
    train_step = objects.train_step(config, backend)
    batches = list(objects.loaders(config, splits, backend).train.epoch(0))
    first, second = objects.state(config, splits, backend), objects.state(config, splits, backend)
    for state, seen in ((first, batches[:3]), (second, batches[5:6])):
        for batch in seen:
            train_step(state, *batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for state in (first, second):
        for batch in batches[3:5]:
            train_step(state, *batch)
    states = [state.state_dict() for state in (first, second)]
    assert states[0]["step"] == 5
    assert same(states[0]["model"], states[1]["model"])
    assert same(states[0]["optimizer"], states[1]["optimizer"])


@pytest.mark.parametrize(
    ("steps", "held_out"),
    [
        pytest.param(STEPS_PER_EPOCH, "0.1", marks=SLOW),
        pytest.param(STEPS_PER_EPOCH, "0", marks=SLOW),
        pytest.param(2 * STEPS_PER_EPOCH + 2, "0.1", marks=SLOW),
        (2 * STEPS_PER_EPOCH + 2, "0"),
    ],
)
def test_plateau_resumes_where_it_was(train, monkeypatch, tmp_path, steps, held_out):
    """No epoch is good enough here: it falls after the first that counts and its successor, and cools down."""
    settings = (
        "scheduler=plateau",
        "scheduler.patience=0",
        "scheduler.threshold=0.9",
        "scheduler.cooldown=1",
        "scheduler.gamma=0.5",
        "scheduler.warmup_steps=2",
        "trainer.max_epochs=5",
        f"dataset.val_size={held_out}",
    )
    undisturbed = train(*settings)
    rates = [record["learning_rate"] for record in undisturbed.metrics]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    directory = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(SystemExit):
            train(*settings, directory=directory)
    resumed = train(*settings, f"resume={directory}", directory=directory)
    states = [run.checkpoint()["state"] for run in (undisturbed, resumed)]
    assert same(states[0]["model"], states[1]["model"])
    assert same(states[0]["schedule"], states[1]["schedule"])
    assert figures(resumed.metrics) == figures(undisturbed.metrics)


def test_a_signal_is_answered_with_a_saved_state_and_its_own_status(train, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    interrupt_after(monkeypatch, 2, signal.SIGTERM)
    directory = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_:
        train(directory=directory)
    assert exit_.value.code == 143
    assert f"python train.py resume={directory}" in caplog.text
    assert torch.load(directory / "checkpoints" / "last.pt", weights_only=True)["state"]["step"] == 2
    assert '"status": "interrupted"' in (directory / "result.json").read_text()


def test_the_signal_handlers_are_put_back(train):
    before = signal.getsignal(signal.SIGINT)
    train("trainer.max_epochs=1")
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_a_finished_run_changes_nothing(train, finished):
    run = finished
    before, weights = figures([run.result]), run.checkpoint()["state"]["model"]
    again = train(f"resume={run.directory.path}", directory=run.directory.path)
    assert figures([again.result]) == before
    assert same(again.checkpoint()["state"]["model"], weights)


def test_a_changed_setting_is_refused_by_name(train, finished, capsys):
    run = finished
    with pytest.raises(SystemExit) as exit_:
        train(f"resume={run.directory.path}", "optimizer.lr=0.2", directory=run.directory.path)
    assert exit_.value.code == 2
    assert "optimizer.lr was 0.1 in this run so far and is 0.2 now" in capsys.readouterr().err
    assert run.result["status"] == "finished"


def test_a_changed_setting_can_be_forced(train, finished):
    run = finished
    longer = train(
        f"resume={run.directory.path}", "trainer.max_epochs=3", "resume_force=true", directory=run.directory.path
    )
    assert [record["epoch"] for record in longer.metrics] == [1, 2, 3]
    assert yaml.safe_load(longer.directory.overrides.read_text())[-1] == "trainer.max_epochs=3"


def test_a_forced_learning_rate_and_momentum_take_effect(train, finished):
    """Loading the optimizer's memory must not bring back the settings that it had."""
    run, changed = finished, ("optimizer.lr=0.02", "optimizer.momentum=0.5", "trainer.max_epochs=3")
    assert run.metrics[-1]["learning_rate"] != pytest.approx(0.02)
    longer = train(
        f"resume={run.directory.path}",
        "scheduler=constant",
        *changed,
        "resume_force=true",
        directory=run.directory.path,
    )
    assert longer.metrics[-1]["learning_rate"] == pytest.approx(0.02)
    groups = longer.checkpoint()["state"]["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.5}


@pytest.mark.slow
def test_a_forced_change_of_the_metric_forgets_the_best_of_the_other(train):
    settings = ("scheduler=plateau", "scheduler.patience=0", "trainer.max_epochs=2")
    run = train(*settings)
    changed = ("scheduler.metric=accuracy", "trainer.max_epochs=3", "resume_force=true")
    train(*settings, f"resume={run.directory.path}", *changed, directory=run.directory.path)
    schedule = run.checkpoint()["state"]["schedule"]
    assert schedule["best"] == run.metrics[-1]["val_accuracy"]
    assert schedule["waited"] == 0


@pytest.mark.slow
def test_a_forced_change_reaches_the_optimizers_within_muon(train):
    run = train("optimizer=muon", "trainer.max_epochs=1")
    changed = ("optimizer.momentum=0.5", "regularization.weight_decay.rate=0.01", "trainer.max_epochs=2")
    resume = f"resume={run.directory.path}"
    longer = train("optimizer=muon", resume, *changed, "resume_force=true", directory=run.directory.path)
    inner = [group for part in longer.checkpoint()["state"]["optimizer"]["inner"] for group in part["param_groups"]]
    assert {group["momentum"] for group in inner if "momentum" in group} == {0.5}
    assert {group["weight_decay"] for group in inner} == {0.0, 0.01}


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("regularization=[weight_decay,ema]", "this run has no ema so far: it cannot be added on resume"),
        ("optimizer=adamw", "this run's optimizer was torch.optim.SGD: it cannot be resumed with torch.optim.AdamW"),
        (
            "model=resnet20",
            "this run's network was models.lenet.LeNet5: it cannot be resumed with models.resnet.ResNet",
        ),
        ("trainer.batch_size=64", "an epoch of this run has 3 steps, with these settings 2: it cannot be resumed"),
        ("trainer.max_epochs=1", "trainer.max_epochs=1: this run is already at epoch 2"),
    ],
)
def test_what_cannot_even_be_forced(train, finished, capsys, setting, answer):
    run = finished
    with pytest.raises(SystemExit) as exit_:
        train(f"resume={run.directory.path}", setting, "resume_force=true", directory=run.directory.path)
    assert exit_.value.code == 2
    assert answer in capsys.readouterr().err


@pytest.mark.slow
def test_another_depth_cannot_be_forced(train, capsys):
    settings = ("model=resnet20", "model.depths=[1,1,1]", "trainer.max_epochs=1")
    run = train(*settings)
    with pytest.raises(SystemExit):
        train(
            *settings,
            f"resume={run.directory.path}",
            "model.depths=[1,1,2]",
            "resume_force=true",
            directory=run.directory.path,
        )
    assert "of this run's network has the shape None, with these settings [64, 64, 3, 3]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("directory", "command"),
    [
        ("/a/b-1", "python train.py resume=/a/b-1"),
        ("/a/my run", """python train.py 'resume='"'"'/a/my run'"'"''"""),
    ],
)
def test_the_command_that_goes_on_can_be_typed(directory, command):
    run = RunDirectory(Path(directory))
    assert run.resume_command == command
    (parsed,) = OverridesParser.create().parse_overrides(shlex.split(command)[2:])
    assert parsed.value() == directory


def test_interrupted_before_the_first_step_leaves_nothing(train, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")

    def splits(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("engine.build.training.splits", splits)
    with pytest.raises(SystemExit) as exit_:
        train(directory=tmp_path / "run")
    assert exit_.value.code == 130
    assert "stopped before the first step" in caplog.text


def test_interrupted_in_the_final_test_says_how_to_go_on(train, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")

    def final_test(*_, **__):
        signal.raise_signal(signal.SIGINT)

    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("engine.build.training.final_test", final_test)
        with pytest.raises(SystemExit) as exit_:
            train(directory=directory)
    assert exit_.value.code == 130
    assert f"to resume: python train.py resume={directory}" in caplog.text
    assert train(f"resume={directory}", directory=directory).result["status"] == "finished"


# resume=auto


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """Make a run that was interrupted, in outputs/ of an empty directory."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, *words: str, status: str = "interrupted", age: int = 0) -> RunDirectory:
        run = RunDirectory(Path("outputs/2026-01-31") / name, words=words)
        run.save_overrides()
        run.last.parent.mkdir()
        torch.save({}, run.last)
        os.utime(run.last, (1e9 - age, 1e9 - age))
        run.result.write_text(json.dumps({"status": status}))
        return run

    return make


def words_for(monkeypatch, *words: str) -> list[str]:
    """What `python train.py resume=auto ...` hands to Hydra."""
    monkeypatch.setattr("sys.argv", ["train.py", "resume=auto", *words])
    command_line("config")
    return sys.argv[1:]


def test_auto_takes_the_newest_unfinished_run_of_the_same_settings(unfinished, monkeypatch, capsys):
    words = ("dataset=shapes", "model=lenet5", "trainer.max_epochs=7")
    unfinished("old", *words, age=50)
    newest = unfinished("newest", *reversed(words), "trainer.device=cpu", age=10)  # the device makes no difference
    unfinished("finished", *words, status="finished")
    unfinished("another", *words, "seed=1")
    unfinished("damaged").overrides.write_text("{")
    unfinished("hostile").overrides.write_text("- hydra.launcher._target_=os.system\n")
    found = words_for(monkeypatch, *words)
    assert f"resume='{newest.path.resolve()}'" in found
    assert f"hydra.run.dir='{newest.path.resolve()}'" in found
    assert "resume=auto: resuming outputs/2026-01-31/newest" in capsys.readouterr().out


def test_auto_begins_a_run_where_there_is_none(unfinished, monkeypatch, capsys):
    unfinished("another", "dataset=shapes", "model=resnet20")
    assert words_for(monkeypatch, "dataset=shapes", "model=lenet5") == ["dataset=shapes", "model=lenet5"]
    assert "no unfinished run with these settings, starting a new one" in capsys.readouterr().out


@pytest.mark.slow
def test_auto_looks_in_the_directory_that_is_given(unfinished, monkeypatch):
    words = ("dataset=shapes", "model=lenet5")
    there, _ = unfinished("there", *words, age=50), unfinished("newer", *words)
    place = f"hydra.run.dir={there.path}"
    assert f"resume='{there.path.resolve()}'" in words_for(monkeypatch, *words, place)
    elsewhere = "hydra.run.dir=outputs/elsewhere"
    assert words_for(monkeypatch, *words, elsewhere) == [*words, elsewhere]


@SLOW
def test_auto_as_a_real_command_resumes_and_then_starts_a_new_run(command, tmp_path):
    words = [*SMALL, "trainer.max_epochs=3", "trainer.checkpoint_every_steps=1"]
    script = (
        "import runpy, signal, sys; from engine.training.step import TrainStep; plain = TrainStep.__call__\n"
        "def step(self, state, *batch):\n"
        "    plain(self, state, *batch)\n"
        "    if state.step == 4: signal.raise_signal(signal.SIGTERM)\n"
        "TrainStep.__call__ = step; sys.argv = ['train.py', *sys.argv[1:]]\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    stopped = command("-c", script, *words, "resume=auto", PYTHONPATH=str(ROOT))
    assert stopped.returncode == 143, stopped.stderr
    (run,) = (tmp_path / "outputs").glob("*/*")
    goes_on = command("train.py", *words, "resume=auto")
    assert goes_on.returncode == 0, goes_on.stderr
    assert f"resume=auto: resuming {run.relative_to(tmp_path)}" in goes_on.stdout
    assert "epoch 3/3" in goes_on.stdout
    assert "epoch 1/3" not in goes_on.stdout
    again = command("train.py", *words, "resume=auto")
    assert "starting a new one" in again.stdout
    assert len(list((tmp_path / "outputs").glob("*/*"))) == 2


@SLOW
@pytest.mark.skipif(sys.platform != "linux", reason="a terminal as Linux has it")
def test_a_terminal_that_is_closed_ends_a_run_with_a_checkpoint(tmp_path, with_sighup):
    """Nobody reads any more what it says, the progress bar included."""
    terminal, end = os.openpty()
    command = ["setsid", "--ctty", "--wait", sys.executable, str(ROOT / "train.py"), *SMALL]
    command += ["trainer.max_epochs=5000", "hydra.run.dir=run"]
    run = RunDirectory(tmp_path / "run")
    with subprocess.Popen(command, cwd=tmp_path, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        os.set_blocking(terminal, False)
        until = time.monotonic() + 120
        while not run.last.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
            with suppress(BlockingIOError):
                os.read(terminal, 2**16)
        os.close(terminal)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert run.status == "interrupted"


@pytest.mark.slow
def test_what_is_noted_of_a_run_follows_settings_that_were_forced(train, tmp_path):
    """From which the table of a sweep knows what a run is."""
    directory = tmp_path / "run"
    noted = directory / ".hydra"
    train("trainer.max_epochs=1", directory=directory)
    assert yaml.safe_load((noted / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    words = ("trainer.max_epochs=2", "scheduler=cosine", f"resume={directory}", "resume_force=true")
    train(*words, directory=directory)
    assert yaml.safe_load((noted / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert yaml.safe_load((noted / "hydra.yaml").read_text())["hydra"]["runtime"]["choices"]["scheduler"] == "cosine"
    assert read_run(directory).setting("scheduler") == "cosine"


@pytest.mark.parametrize(("then", "now"), [(1, 3), (3, 1), (2, 2), (2, 0)])
def test_random_numbers_of_the_gpus_that_there_were_and_are_go_on(monkeypatch, then, now):
    """A job of a sweep sees one of several, and goes on where all are seen."""
    states, found = {**random_states(), "cuda": [f"of {number}" for number in range(then)]}, {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: now)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: found.update({device: state}))
    restore_random_states(states)
    assert found == {number: f"of {number}" for number in range(min(then, now))}
