"""What can befall a run: the harness of tests/harness/faults.py in short, and what it cannot reach."""

import logging
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.summary import scalar

from engine.build import batch_size, objects
from engine.build.batch_size import largest_batch
from engine.device.device import backends
from engine.device.memory import OutOfMemory, memory_explained
from engine.logging.events import EventFile
from engine.logging.run_log import RunLog
from engine.logging.sink import Begun
from engine.logging.tensorboard import TensorBoard
from engine.run.directory import DirectoryError, RunDirectory
from engine.training.checkpoint_file import CheckpointError, read, read_newest, write
from engine.training.checkpoints import Checkpoints
from engine.training.step import TrainStep
from tests.harness.faults import FAULTS, Harness
from tests.support.runs import composed


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return Harness(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_survived(harness, fault):
    """Each thing that can be done to a run, some times; `python -m tests.harness.faults` does it more often."""
    count = FAULTS[fault](harness, 3 if fault.startswith("killed") else 1)
    if not count.tried:
        pytest.skip("; ".join(count.remarks))
    assert count.survived == count.tried, count.remarks


# Checkpoints


def state_of(run_directory: RunDirectory, step: int) -> Checkpoints:
    """Two checkpoints in a directory, the newest of so many steps."""
    for number in (step - 1, step):
        write(run_directory.last, {"state": {"step": number}}, previous=run_directory.previous)


def test_every_bit_of_a_checkpoint_matters_or_means_nothing(tmp_path):
    """One bit after the other: the file is refused, or holds the same."""
    file, content = tmp_path / "last.pt", {"state": {"weight": torch.arange(6.0), "step": 3}}
    write(file, content)
    whole, refused = file.read_bytes(), 0
    places = range(0, 8 * len(whole), 41)
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = read(file)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(found["state"]["weight"], content["state"]["weight"])
            assert found["state"]["step"] == 3
    assert refused > len(places) / 4


def test_at_every_moment_of_writing_there_is_a_sound_checkpoint(tmp_path, monkeypatch):
    """The process is as if killed before each change that writing makes to the directory."""
    run = RunDirectory(tmp_path)
    state_of(run, 2)
    for call in range(1, 6):
        calls = 0

        def counted(plain):
            def changed(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == call:  # noqa: B023 (called within this turn)
                    raise KeyboardInterrupt
                return plain(*arguments, **options)

            return changed

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                write(run.last, {"state": {"step": 3}}, previous=run.previous)
            except KeyboardInterrupt:
                assert read_newest(run)[0]["state"]["step"] in (2, 3)
    assert calls == 4, "fsync of the file, two renames, fsync of the directory"
    assert read_newest(run)[0]["state"]["step"] == 3


def test_within_an_epoch_checkpoints_are_due_by_steps_or_minutes(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    assert not any(Checkpoints(run, {}).due(step) for step in range(1, 100))
    by_steps = Checkpoints(run, {}, steps=3)
    assert [step for step in range(1, 10) if by_steps.due(step)] == [3, 6, 9]
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    by_minutes = Checkpoints(run, {}, minutes=0.5)
    assert not by_minutes.due(1)
    now += 30
    assert by_minutes.due(2)
    by_minutes.saved_at = now
    assert not by_minutes.due(3)


def test_a_checkpoint_within_an_epoch_is_the_state_at_its_step(train, monkeypatch):
    kept = []
    plain = Checkpoints.save

    def save(self, name, state):
        plain(self, name, state)
        kept.append((name, state.step, read(self.files[name])["state"]["step"]))

    monkeypatch.setattr(Checkpoints, "save", save)
    train("trainer.checkpoint_every_steps=2", "trainer.max_epochs=2", "dataset.val_size=0")  # an epoch has 4 steps
    assert kept == [("last", step, step) for step in (2, 4, 6, 8)]


def test_a_best_checkpoint_that_is_lost_or_damaged_is_said_and_the_last_epoch_counts(train, monkeypatch, caplog):
    caplog.set_level("INFO")
    plain = Checkpoints.save

    def save(self, name, state):
        plain(self, name, state)
        if name == "best":
            self.files[name].write_bytes(b"rubbish")

    monkeypatch.setattr(Checkpoints, "save", save)
    run = train("trainer.max_epochs=2")
    assert "best.pt is not a checkpoint: File is not a zip file: the last epoch is tested instead" in caplog.text
    assert run.result["status"] == "finished"
    assert run.result["chosen_epoch"] == 2
    assert run.result["test_accuracy"] == run.result["test_accuracy_last"]


def test_a_best_checkpoint_that_could_not_be_written_is_an_earlier_one(train, monkeypatch, caplog):
    caplog.set_level("INFO")
    plain, accuracies = Checkpoints.save, iter([0.1, 0.2, 0.15])

    def save(self, name, state):
        if not (name == "best" and state.step > 3):
            plain(self, name, state)

    def evaluations(state, *_):
        return {"val_accuracy": next(accuracies), "val_loss": 1.0, "val_top5_accuracy": 0.5}

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr("engine.training.fit.evaluations", evaluations)
    run = train("trainer.max_epochs=3")
    assert "best.pt is of epoch 1: the best, 2, could not be written" in caplog.text
    assert run.result["chosen_epoch"] == 1


# Numbers that are none


def spoil(monkeypatch, steps: set[int]) -> None:
    """The images of these batches, counted over the whole run from 0, are infinite."""
    plain = TrainStep.__call__

    def step(self, state, images, targets):
        plain(self, state, images * float("inf") if state.step in steps else images, targets)

    monkeypatch.setattr(TrainStep, "__call__", step)


@pytest.mark.parametrize("more", [(), ("regularization=[sam,ema]",), ("model=resnet20", "model.depths=[1,1,1]")])
def test_a_batch_that_is_skipped_changes_nothing_but_the_count(train, monkeypatch, more):
    """Neither weights nor batch norm's statistics; the epoch's figures are of the other batches."""
    settings = ("trainer.on_nonfinite=skip", "trainer.max_epochs=1", *more)
    before_skipping, states = {}, []
    plain = TrainStep.__call__

    def step(self, state, images, targets):
        before_skipping[state.step] = {name: value.clone() for name, value in state.model.state_dict().items()}
        plain(self, state, images * float("nan") if state.step == 1 else images, targets)
        states.append({name: value.clone() for name, value in state.model.state_dict().items()})

    monkeypatch.setattr(TrainStep, "__call__", step)
    run = train(*settings)
    assert all(torch.equal(value, before_skipping[1][name]) for name, value in states[1].items())
    assert any(not torch.equal(value, before_skipping[2][name]) for name, value in states[2].items())
    (record,) = run.metrics
    assert record["skipped_steps"] == 1
    assert 0 < record["train_loss"] < 10


def test_a_skipped_batch_does_not_end_the_run_at_a_checkpoint_behind_it(train, monkeypatch):
    """Though it was the first of its epoch, of which so far there is nothing."""
    spoil(monkeypatch, {0})
    run = train("trainer.on_nonfinite=skip", "trainer.max_epochs=1", "trainer.checkpoint_every_steps=1")
    assert run.result["status"] == "finished"
    assert run.metrics[0]["skipped_steps"] == 1


def test_without_trouble_skipping_changes_nothing(train):
    runs = [train(f"trainer.on_nonfinite={choice}") for choice in ("stop", "skip", "rollback")]
    weights = [run.checkpoint()["state"]["model"] for run in runs]
    for name, value in weights[0].items():
        assert all(torch.equal(value, others[name]) for others in weights[1:])
    assert "skipped_steps" not in runs[1].metrics[0]


def test_a_run_that_stops_says_the_step_and_leaves_the_last_good_checkpoint(train, monkeypatch, capsys):
    spoil(monkeypatch, {4})  # the second of the second epoch
    with pytest.raises(SystemExit) as exit_:
        train("trainer.max_epochs=3")
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert "the train loss became nan in step 2 of epoch 2, learning rate 0.01; the last checkpoint, " in said
    assert said.endswith("last.pt, is of epoch 1\n")


def test_a_checkpoint_within_an_epoch_is_not_written_over_by_one_that_is_no_good(train, monkeypatch, tmp_path):
    spoil(monkeypatch, {4})
    with pytest.raises(SystemExit):
        train("trainer.max_epochs=3", "trainer.checkpoint_every_steps=1", directory=tmp_path / "run")
    assert read(tmp_path / "run" / "checkpoints" / "last.pt")["state"]["step"] == 4


def test_a_run_that_goes_back_trains_on_at_half_the_rate(train, monkeypatch, caplog):
    """Once: the batch is no trouble at half the rate. The figures of an epoch that failed are nowhere."""
    caplog.set_level("INFO")
    plain = TrainStep.__call__

    def step(self, state, images, targets):
        trouble = state.step == 4 and state.lr_factor == 1
        plain(self, state, images * float("inf") if trouble else images, targets)

    monkeypatch.setattr(TrainStep, "__call__", step)
    run = train("trainer.max_epochs=3", "trainer.on_nonfinite=rollback", "scheduler=constant")
    assert "in step 2 of epoch 2, learning rate 0.1: going back to step 3, with 0.5 of the learning rate" in caplog.text
    assert [record["epoch"] for record in run.metrics] == [1, 2, 3]
    assert [record["learning_rate"] for record in run.metrics] == [0.1, 0.05, 0.05]
    events = EventAccumulator(str(run.directory.tensorboard)).Reload()
    rates = [(event.step, round(event.value, 4)) for event in events.Scalars("learning rate")]
    assert rates == [(1, 0.1), (2, 0.05), (3, 0.05)]
    assert run.checkpoint()["state"]["rate"] == 0.5


def test_a_run_that_can_not_be_helped_by_going_back_stops(train, monkeypatch, capsys):
    spoil(monkeypatch, {4})
    with pytest.raises(SystemExit) as exit_:
        train("trainer.max_epochs=3", "trainer.on_nonfinite=rollback")
    assert exit_.value.code == 1
    assert "is of epoch 1" in capsys.readouterr().err


# Memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_explained(error):
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory with batches of 8: lower trainer.batch_size"),
        memory_explained("batches of 8"),
    ):
        raise error


def test_other_errors_are_not():
    with pytest.raises(RuntimeError, match="something else"), memory_explained("batches of 8"):
        raise RuntimeError("something else")


def trial(*overrides: str):
    """A state, a step and a machine."""
    config = composed("model=resnet20", "trainer.batch_size=16", "trainer.device=cpu", "dataset=shapes", *overrides)
    (backend,) = backends(torch.device("cpu"), precision="fp32", memory_format="channels_last")
    splits = objects.splits(config)
    return objects.state(config, splits, backend), objects.train_step(config, backend), backend


def test_the_largest_batch_grows_with_the_memory_and_leaves_32_steps(monkeypatch):
    state, step, backend = trial("dataset.train_size=100")
    shape, found = torch.Size([3, 32, 32]), []
    for gibibytes in (0.01, 1, 2, 4, 1000):
        monkeypatch.setattr(batch_size, "free_bytes", lambda _, gibibytes=gibibytes: gibibytes * 2**30)
        found.append(largest_batch(state, step, backend, image_shape=shape, count=50_000))
    assert found[0] == batch_size.SMALLEST
    assert found == sorted(found)
    assert found[2] == 2 * found[1]
    assert found[-1] == 1024, "the largest power of two of which 50,000 images make 32 batches"


def test_what_a_step_keeps_is_as_much_as_its_activations():
    """ResNet-20 keeps of an image in fp32 the input of each convolution and norm and the output of each ReLU."""
    state, step, backend = trial("dataset.train_size=100")
    two, four = (
        batch_size.kept_bytes(state, step, backend, batch_size.images(backend, torch.Size([3, 32, 32]), size))
        for size in (2, 4)
    )
    # The image, what 19 ReLUs yield (the inputs of the other convolutions among them), and the inputs of 19 norms.
    stem, pixels = 3 * 1024, [16 * 1024] * 7 + [32 * 256] * 6 + [64 * 64] * 6
    assert (four - two) / 2 == pytest.approx(4 * (stem + 2 * sum(pixels)), rel=0.05)


def test_a_run_with_the_largest_batch_keeps_it_when_it_goes_on(train, monkeypatch, caplog):
    caplog.set_level("INFO")
    run = train("trainer.batch_size=auto", "trainer.max_epochs=1", "scheduler=constant")
    assert run.result["batch_size"] == batch_size.SMALLEST
    assert f"batches of {batch_size.SMALLEST}" in caplog.text
    monkeypatch.setattr("engine.build.autotune.largest_batch", None)
    more = ("trainer.max_epochs=2", "resume_force=true", "scheduler=constant", f"resume={run.directory.path}")
    resumed = train("trainer.batch_size=auto", *more, directory=run.directory.path)
    assert resumed.result["batch_size"] == batch_size.SMALLEST
    assert resumed.result["epochs"] == 2


# The directory


def test_a_directory_is_locked_and_given_back(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.in_use():
        with pytest.raises(DirectoryError, match="is in use by another process"), run.in_use():
            pass
        (run.path / "something").touch()
    with run.in_use():
        pass
    assert (run.path / "something").exists()


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match="cannot be written to"), RunDirectory(tmp_path / place).in_use():
        pass


def test_a_directory_that_was_deleted_is_made_again_with_its_words(tmp_path, caplog):
    caplog.set_level("INFO")
    run = RunDirectory(tmp_path / "run", words=["model=lenet5", "resume=x", "resume_force=true"])
    run.recreate()
    assert run.overrides.read_text() == "- model=lenet5\n"
    assert "was deleted: recreating it" in caplog.text


# TensorBoard's files


def record_after(records: list[dict[str, float]]) -> dict[str, float]:
    """The figures of one more epoch."""
    figures = {"train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 1.0}
    return {"epoch": len(records) + 1, "seconds": 1.0, **figures}


@pytest.mark.parametrize("epochs", [0, 1, 2, 5])
def test_a_deleted_directory_loses_no_point_of_a_curve(tmp_path, epochs):
    run, records = RunDirectory(tmp_path / "run"), []
    for beginning in (True, False):  # and once more, as it is when a run goes on
        with RunLog(Begun(run=run, facts={}, records=records), [TensorBoard(log_graph=False)]) as log:
            for _ in range(epochs):
                log.epoch(record_after(records), max_epochs=20)
            if beginning:
                shutil.rmtree(run.path)
            log.epoch(record_after(records), max_epochs=20)
        expected = [(epoch, 1.0) for epoch in range(1, len(records) + 1)]
        assert points(run.tensorboard)["loss/train"] == expected


def points(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard shows."""
    events = EventAccumulator(str(directory)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_event_files_follow_each_other_also_within_a_second(tmp_path):
    for number in range(4):
        file = EventFile(tmp_path, step=number)
        for step in (number + 1, number + 2, number + 3):
            file.add(scalar("curve", 10.0 * number + step), step)
        file.flush()
        file.close()
    assert points(tmp_path)["curve"] == [(1, 1), (2, 12), (3, 23), (4, 34), (5, 35), (6, 36)]


def test_a_torn_event_does_not_hide_what_a_later_file_says(tmp_path):
    first = EventFile(tmp_path, step=0)
    for step in (1, 2):
        first.add(scalar("curve", step), step)
    first.close()
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-7])
    second = EventFile(tmp_path, step=1)
    second.add(scalar("curve", 20.0), 2)
    second.close()
    assert points(tmp_path)["curve"] == [(1, 1), (2, 20)]


def test_a_deleted_event_file_is_noticed(tmp_path):
    file = EventFile(tmp_path, step=0)
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        file.flush()
    file.close()
