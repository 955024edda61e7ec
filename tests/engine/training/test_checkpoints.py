"""Checkpoints are whole, describe themselves, and run no code."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from engine.build import from_checkpoint
from engine.config.identity import difference
from engine.training.checkpoint_file import CheckpointError, read, write
from tests.support.files import Bomb


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "a" / "last.pt", {"state": {}, "tensor": torch.arange(3), "config": {"a": [1, None, "x"]}})
    content = read(tmp_path / "a" / "last.pt")
    assert content["tensor"].tolist() == [0, 1, 2]
    assert content["config"] == {"a": [1, None, "x"]}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    write(file, {"state": {"step": 1}})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, {"state": {"step": 2}})
    assert read(file)["state"]["step"] == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_a_wrapped_network_are_read_as_its_own(finished, prefix):
    run = finished
    content = run.checkpoint()
    plain = content["state"]["model"]
    content["state"]["model"] = {f"{prefix}{name}": value for name, value in plain.items()}
    write(run.directory.last, content)
    assert list(read(run.directory.last)["state"]["model"]) == list(plain)
    found = from_checkpoint.rebuild(read(run.directory.last), weights=None, device="cpu")
    assert all(torch.equal(value, plain[name]) for name, value in found.model.state_dict().items())


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """It could be a bomb: a gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(CheckpointError, match="it is compressed, and could unpack to any size"):
        read(tmp_path / "last.pt")


def test_a_checkpoint_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 2, "bomb": Bomb()}, "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is not a checkpoint"):
        read(Path("last.pt"))
    assert not Path("exploded").exists()


def test_a_whole_network_is_told_apart_from_its_weights(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"it contains torch\.nn\.modules\.linear\.Linear, .* state_dict\(\)"):
        read(tmp_path / "last.pt")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"format": 2}), b"PK\x03\x04 rubbish"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt is not a checkpoint") as caught:
        read(tmp_path / "last.pt")
    assert "\n" not in str(caught.value)


def test_a_bare_state_dict_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this program"):
        read(tmp_path / "last.pt")


def test_another_format_is_named(tmp_path):
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this program reads 4"):
        read(tmp_path / "last.pt")


def test_changed_settings_are_named():
    before = {"trainer": {"batch_size": 128, "device": "cpu"}, "seed": 0}
    assert difference(before, {"trainer": {"batch_size": 128, "device": "cuda"}, "seed": 0}) is None
    smaller = {"trainer": {"batch_size": 64, "device": "cpu"}, "seed": 0}
    assert difference(before, smaller) == "trainer.batch_size was 128 in this run so far and is 64 now"
    without_seed = {"trainer": {"batch_size": 128, "device": "cpu"}}
    assert difference(before, without_seed) == "seed was 0 in this run so far and is None now"


def test_where_images_lie_decides_what_they_are_unless_they_are_published():
    for dataset, said in (({"mirrors": []}, None), ({}, "dataset.root was a in this run so far and is b now")):
        before, after = ({"dataset": {**dataset, "root": root}} for root in "ab")
        assert difference(before, after) == said
        assert difference(before, after, may_move=True) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda checkpoint: checkpoint.pop("classes"), "KeyError 'classes'"),
        (lambda checkpoint: checkpoint["config"]["model"].update(size=3), "unexpected keyword argument 'size'"),
        (lambda checkpoint: checkpoint["state"]["model"].popitem(), "Missing key"),
    ],
)
def test_a_checkpoint_that_does_not_describe_what_it_holds(finished, spoil, said):
    checkpoint = finished.checkpoint()
    spoil(checkpoint)
    with pytest.raises(CheckpointError, match=f"does not describe what it holds: .*{said}"):
        from_checkpoint.rebuild(checkpoint, weights=None, device="cpu")


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.parametrize("given", ["auto", "the same"])
def test_a_processor_evaluates_in_fp32_what_a_gpu_trained_in_its_own_precision(finished, precision, given):
    checkpoint = finished.checkpoint() | {"precision": precision}
    checkpoint["config"]["trainer"]["precision"] = precision if given == "the same" else given
    found = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu")
    assert found.precision.name == "fp32"
