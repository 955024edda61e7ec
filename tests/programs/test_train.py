"""The real commands, as a user types them, from an empty directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate as evaluate_program
from data.loader import EvalLoader
from data.shapes import shapes
from engine.build import objects, training
from engine.config.command import initialized
from engine.distributed.ranks import Ranks
from engine.evaluation.evaluate import evaluate
from engine.logging.summary import require_kept
from engine.run.directory import RunDirectory
from engine.run.errors import NotSaved
from tests.support.runs import ROOT, SMALL, composed, option_names, rebuilt


def only(paths) -> Path:
    """The one path there is."""
    (path,) = paths
    return path


@pytest.mark.slow
def test_train_then_evaluate(command, tmp_path):
    trained = command("train.py", *SMALL, "trainer.max_epochs=3", "scheduler=cosine")
    assert trained.returncode == 0, trained.stderr
    run = only((tmp_path / "outputs").glob("*/*"))
    assert re.fullmatch(r"\d\d-\d\d-\d\d-[0-9a-f]{4}", run.name)

    # What the console says.
    assert "lenet5: 62,006 parameters, 0.7 M multiply-adds" in trained.stdout
    assert "shapes: 90 images to train on, 10 to validate, 100 to test, 10 classes" in trained.stdout
    assert re.search(r"cpu, \d+ threads?, fp32 channels_last, torch ", trained.stdout)
    assert re.search(
        r"epoch 3/3: train loss \d\.\d+ accuracy .* %, val loss .*, [\d,]+ images/s, 0:00 left", trained.stdout
    )
    assert f"run: {run.relative_to(tmp_path)}" in trained.stdout
    assert "curves: tensorboard --logdir outputs" in trained.stdout
    assert trained.stderr == "", "without a terminal there is no progress bar"

    # What the run leaves.
    assert {path.name for path in run.iterdir()} == {
        ".hydra",
        ".lock",
        "checkpoints",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.pt", "last.pt", "previous.pt"}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in metrics] == [1, 2, 3]
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["params"] == 62_006
    assert (result["model"], result["scheduler"], result["regularization"]) == ("lenet5", "cosine", ["weight_decay"])
    best = max(metrics, key=lambda record: record["val_accuracy"])
    assert result["chosen_epoch"] == best["epoch"]
    assert result["val_accuracy"] == best["val_accuracy"]
    assert result["test_accuracy"] == result["test_accuracy_best"]
    for name in ("seconds", "images_per_second", "train_loss", "val_loss", "test_loss", "test_accuracy_last"):
        assert result[name] >= 0, name
    assert {"python", "torch", "hydra-core"} <= result["versions"].keys()
    assert (result["seed"], result["epochs"]) == (0, 3)

    # What TensorBoard finds: one run, with its curves, its pictures, its texts and its hyper-parameters.
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    curves = {"loss/train", "loss/val", "accuracy/train", "accuracy/val", "learning rate", "norm/weights"}
    assert curves <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/val")] == [1, 2, 3]
    assert events.Tags()["images"] == ["first augmented batch", "confusion matrix", "most confident errors"]
    assert {"configuration/text_summary", "network/text_summary", "run/text_summary"} <= events.summary_metadata.keys()
    assert "custom_scalars__config__" in events.summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= events.summary_metadata.keys()
    assert only(run.rglob("events.out.*"))

    # What evaluation says of it.
    evaluated = command("evaluate.py", f"checkpoint={run}")
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["loss"] == pytest.approx(result["test_loss"], rel=1e-6)
    assert figures["accuracy"] == result["test_accuracy"]
    assert figures["top5_accuracy"] == result["test_top5_accuracy"]
    assert set(figures["classes"]) >= {"disk", "triangle", "flower"}
    assert f"accuracy {100 * result['test_accuracy']:.2f} %" in evaluated.stdout
    assert f"{100 * result['test_accuracy']:.2f} %" in (run / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "evaluation leaves no directory of its own"


@pytest.mark.slow
def test_every_tta_of_the_last_checkpoint(finished):
    words = (f"checkpoint={finished.directory.last}", "every_tta=true", "device=cpu")
    with initialized(None):  # in which the program asks for the options of the group
        evaluate_program.main(compose("evaluate", list(words)))
    figures = json.loads((finished.directory.path / "evaluation.json").read_text())
    assert figures["accuracy"] == figures["every_tta"]["none"]["accuracy"] == finished.result["test_accuracy_last"]
    assert sorted(figures["every_tta"]) == option_names("tta")


def test_the_epoch_is_chosen_on_held_out_images_and_the_test_images_are_read_at_the_end(train, monkeypatch):
    """10 images are held out; the loss on them is plain cross-entropy, whatever is trained with."""
    read, plain = [], EvalLoader.__iter__
    monkeypatch.setattr(EvalLoader, "__iter__", lambda self: read.append(len(self.images)) or plain(self))
    run = train("trainer.max_epochs=2", "regularization=[label_smoothing]")
    assert read[:2] == [10, 10]
    assert read[2:] in ([100], [100, 100]), "of the last epoch, and of the best where it is another"
    found, images = rebuilt(run.checkpoint())
    figures = evaluate(found.model, images.val, precision=found.precision)
    assert figures.loss == pytest.approx(run.metrics[-1]["val_loss"], rel=1e-6)


def test_without_validation_images_the_last_epoch_is_the_result(train):
    run = train("dataset.val_size=0")
    assert not run.directory.best.exists()
    assert run.result["test_accuracy"] == run.result["test_accuracy_last"]
    assert run.result["test_accuracy_best"] is None
    assert run.result["chosen_epoch"] == 2
    assert "val_loss" not in run.metrics[0]


def test_how_often_a_checkpoint_is_written_reaches_the_run(tmp_path):
    config = composed(*SMALL, "trainer.checkpoint_minutes=7", "trainer.checkpoint_every_steps=5")
    parts = training.parts(config, RunDirectory(tmp_path), keep_data=True)
    assert (parts.checkpoints.minutes, parts.checkpoints.steps) == (7, 5)


def test_of_several_processes_the_answers_of_all_are_shown(tmp_path):
    """Each sees a share of the test images; what the second says is made up here."""

    class Two(Ranks):
        def all_gather(self, value):
            return [value, value.flip(0)]

    parts = training.parts(composed(*SMALL), RunDirectory(tmp_path), keep_data=True)
    _, mine = parts.final_test()
    _, all_of_them = replace(parts, ranks=Two()).final_test()
    for name in ("predicted", "confidence"):
        first = getattr(mine, name)
        assert torch.equal(getattr(all_of_them, name), torch.cat([first, first.flip(0)]))


def test_a_result_that_could_not_be_kept_is_no_success(finished):
    run = finished
    require_kept(run.directory)
    run.directory.result.write_text('{"status": "running"}')
    with pytest.raises(NotSaved, match=r"result\.json of .* could not be written"):
        require_kept(run.directory)


@pytest.mark.slow
def test_a_sweep_without_a_name_leaves_a_run_for_each_job(command, tmp_path):
    ended = command("train.py", "-m", *SMALL, "trainer.max_epochs=1", "scheduler=step,cosine", "seed=0,1")
    assert ended.returncode == 0, ended.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "multirun").glob("*/*/*/result.json")]
    found = sorted((result["scheduler"], result["seed"]) for result in results)
    assert found == [("cosine", 0), ("cosine", 1), ("step", 0), ("step", 1)]


def test_jobs_of_one_process_read_their_data_once(monkeypatch):
    objects.kept_dataset.cache_clear()
    read = []
    monkeypatch.setattr("data.shapes.shapes", lambda **arguments: read.append(arguments) or shapes(**arguments))
    for overrides in [("seed=0",), ("seed=1", "model=resnet20"), ("dataset.val_size=20", "dataset.train_limit=50")]:
        kept, fresh = (objects.splits(composed(*SMALL, *overrides), keep=keep) for keep in (True, False))
        for images in ("train", "val", "test"):
            assert torch.equal(getattr(kept, images).images, getattr(fresh, images).images)
    assert len(read) == 1 + 3
    objects.splits(composed(*SMALL, "dataset.train_size=120"), keep=True)
    assert len(read) == 1 + 3 + 1
    objects.kept_dataset.cache_clear()


def test_control_c_saves_and_the_command_that_it_names_goes_on(tmp_path):
    arguments = [*SMALL, "trainer.max_epochs=2000", "dataset.train_size=2000"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    go_on = re.search(r"to resume: python (train\.py resume=\S+)", said)[1].split()
    run = tmp_path / go_on[1].removeprefix("resume=")
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"

    ended = subprocess.run(
        [sys.executable, ROOT / go_on[0], go_on[1], f"trainer.max_epochs={done + 2}", "resume_force=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert f"epoch {done + 2}/{done + 2}" in ended.stdout
    metrics = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics == list(range(1, done + 3))
    assert len(list((tmp_path / "outputs").glob("*/*"))) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("dataset=folder", "dataset.root={}"), "train is not a directory"),
        (("dataset=cifar10", "dataset.root={}", "dataset.mirrors=[]"), "Put cifar-10-python.tar.gz into"),
        (("dataset.val_size=1000",), "leaves too few of the 100 training images"),
        (("trainer.device=mps",), "device=mps: torch"),
        (("trainer.precision=fp16",), "trainer.precision=fp16 needs a GPU"),
    ],
)
def test_what_shows_only_later_is_one_line_too_and_leaves_no_directory(train, tmp_path, capsys, overrides, said):
    directory = tmp_path / "run"
    (directory / ".hydra").mkdir(parents=True)
    with pytest.raises(SystemExit) as exit_:
        train(*(override.format(tmp_path) for override in overrides), directory=directory)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not directory.exists()


def test_a_loss_that_is_no_number_ends_the_run(train, capsys):
    with pytest.raises(SystemExit) as exit_:
        train("optimizer.lr=1e30", "scheduler=constant", "trainer.max_epochs=3")
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert re.search(
        r"the train loss became (nan|inf) in step [23] of epoch 1, learning rate 1e\+30; there is no ch", said
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("model", "subprocess.run"),
        ("model", "models.resnet.nn.modules.module.functools.partial"),
        ("dataset", "os.system"),
        ("dataset", "data.download.fetch"),
    ],
)
def test_a_checkpoint_that_asks_for_other_code_is_refused(finished, section, target):
    import torch

    from engine.training.checkpoint_file import CheckpointError, read

    run = finished
    content = run.checkpoint("best")
    content["config"][section]["_target_"] = target
    torch.save(content, run.directory.best)
    with pytest.raises(CheckpointError, match=f"the checkpoint asks for {target}, which conf/ does not name"):
        rebuilt(read(run.directory.best))


@pytest.mark.slow
def test_options_of_ones_own_directory(command, tmp_path):
    """--config-dir adds options that are checked like any other."""
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("defaults: [lenet5]\n")
    settings = [*SMALL, "model=mine", "trainer.max_epochs=1"]
    ended = command("train.py", "--config-dir", "own", *settings, "hydra.run.dir='my run'")
    assert ended.returncode == 0, ended.stderr
    assert "mine: 62,006 parameters" in ended.stdout
    ended = command("train.py", *settings)
    assert "model=mine: no such option" in ended.stderr
    ended = command("evaluate.py", "checkpoint='my run'", "root=elsewhere")
    assert "root=elsewhere: the data set of this run is not read from a directory" in ended.stderr
    (tmp_path / "my run" / "evaluation.json").mkdir()
    ended = command("evaluate.py", "checkpoint='my run'")
    assert ended.returncode == 1
    assert "top-5" in ended.stdout
    assert ended.stderr == "evaluate.py: my run/evaluation.json could not be written (Is a directory)\n"


@pytest.mark.slow
@pytest.mark.parametrize(("asked_to_stop", "epochs", "ends_as"), [(False, 3, 0), (True, 10_000, 143)])
def test_a_reader_who_leaves_stops_nothing(tmp_path, asked_to_stop, epochs, ends_as):
    """As in `python train.py | head -1`."""
    words = [sys.executable, str(ROOT / "train.py"), *SMALL, f"trainer.max_epochs={epochs}", "hydra.run.dir=run"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert any(b"epoch 1/" in line for line in process.stdout)
        process.stdout.close()
        if asked_to_stop:
            process.terminate()
        assert process.stderr.read() == b""
    assert process.returncode == ends_as
    status = json.loads((tmp_path / "run" / "result.json").read_text())["status"]
    assert status == ("interrupted" if asked_to_stop else "finished")


@pytest.mark.slow
def test_without_a_reader_a_sweep_goes_on_as_well(tmp_path):
    words = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "seed=0,1", "trainer.max_epochs=1", "sweep=seeds"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    results = [json.loads(file.read_text()) for file in tmp_path.glob("multirun/seeds/*/result.json")]
    assert [result["status"] for result in results] == ["finished"] * 2
    assert (tmp_path / "multirun" / "seeds" / "leaderboard.md").is_file()


@pytest.mark.parametrize(
    ("words", "ends_as"),
    [
        ("-m models", 0),
        pytest.param("-m engine.recipes", 0, marks=pytest.mark.slow),
        pytest.param("-m schedulers --png=curve.png", 0, marks=pytest.mark.slow),
        ("train.py --help", -signal.SIGPIPE),
        pytest.param("train.py --cfg job", -signal.SIGPIPE, marks=pytest.mark.slow),
        pytest.param("evaluate.py --help", -signal.SIGPIPE, marks=pytest.mark.slow),
    ],
)
def test_what_nobody_reads_ends_without_a_word(words, ends_as, tmp_path):
    """As in `python -m models | head -1`."""
    program, *rest = words.split()
    command = [sys.executable, *([program] if program == "-m" else [str(ROOT / program)]), *rest]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == ends_as
    assert (tmp_path / "curve.png").is_file() == ("schedulers" in rest)


@pytest.mark.slow
def test_a_compiled_network_trains_as_any_other(train):
    """With an average, resumed, and evaluated: the names of its weights are the same."""
    compiled = train("trainer.compile=true", "regularization=[weight_decay,ema]", "scheduler=constant")
    assert compiled.result["status"] == "finished"
    eager = train("regularization=[weight_decay,ema]", "scheduler=constant")
    assert compiled.checkpoint()["state"]["model"].keys() == eager.checkpoint()["state"]["model"].keys()
    for ours, theirs in zip(compiled.metrics, eager.metrics, strict=True):
        for name in ("train_loss", "val_loss", "val_loss_ema"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
    further = train(
        *("trainer.compile=true", "regularization=[weight_decay,ema]", "scheduler=constant", "trainer.max_epochs=3"),
        *(f"resume={compiled.directory.path}", "resume_force=true"),
        directory=compiled.directory.path,
    )
    assert further.result["epochs"] == 3
    found, images = rebuilt(further.checkpoint())
    figures = evaluate(found.model, images.test, precision=found.precision)
    assert figures.accuracy == further.result["test_accuracy_last"]
