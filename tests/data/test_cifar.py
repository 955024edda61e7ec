"""CIFAR's archives and files: read where they are the published ones, and refused by name where they are not."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data import cifar
from data.cifar import CIFAR10, CIFAR100, cifar10, cifar100
from data.dataset import DataError
from tests.support.archives import FACTS, archive_bytes, archive_files, as_published, pixels


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A directory with a small archive of CIFAR-10, which the program takes for the published one."""
    content = archive_bytes(CIFAR10)
    monkeypatch.setattr(cifar, "CIFAR10", as_published(CIFAR10, content))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cifar-10-python.tar.gz").write_bytes(content)
    return tmp_path / "root"


def refused(root: Path) -> str:
    """The one line in which an archive or a file is refused; nothing is left of what was begun."""
    before = [path for path in sorted(root.rglob("*")) if path.suffix != ".lock"]
    with pytest.raises(DataError) as caught:
        cifar10(root=str(root), mirrors=[], **FACTS)
    assert [path for path in sorted(root.rglob("*")) if path.suffix != ".lock"] == before
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{root}/")


def test_the_md5s_are_those_that_torchvision_lists():
    from torchvision.datasets import CIFAR10 as TV10
    from torchvision.datasets import CIFAR100 as TV100

    for ours, theirs in ((CIFAR10, TV10), (CIFAR100, TV100)):
        assert (ours.file, ours.md5, ours.folder) == (theirs.filename, theirs.tgz_md5, theirs.base_folder)
        assert list(ours.train.items()) == [tuple(entry) for entry in theirs.train_list]
        assert list(ours.test.items()) == [tuple(entry) for entry in theirs.test_list]
        assert list(ours.meta.items()) == [(theirs.meta["filename"], theirs.meta["md5"])]


def test_cifar10_is_unpacked_and_read(root):
    data = cifar10(root=str(root), mirrors=[], **FACTS)
    assert data.classes == [f"class{n}" for n in range(10)]
    assert data.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.train.labels.dtype == torch.int64
    assert data.test.labels.tolist() == [5, 9]
    expected = np.concatenate([pixels(2, seed) for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    files = {str(file.relative_to(root)): file.read_bytes() for file in root.glob("cifar-10-batches-py/*")}
    assert files == archive_files(CIFAR10) | {"cifar-10-batches-py/readme.html": b"<meta>"}


@pytest.mark.parametrize(("labels", "expected", "classes"), [("fine", [0, 99], 100), ("coarse", [0, 19], 20)])
def test_cifar100_has_fine_and_coarse_labels(monkeypatch, tmp_path, labels, expected, classes):
    content = archive_bytes(CIFAR100)
    monkeypatch.setattr(cifar, "CIFAR100", as_published(CIFAR100, content))
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(content)
    data = cifar100(root=str(tmp_path), mirrors=[], labels=labels, **FACTS)
    assert data.train.labels.tolist() == expected
    assert len(data.classes) == classes


def test_what_a_killed_process_left_is_replaced(root):
    (root / "cifar-10-batches-py.part" / "cifar-10-batches-py").mkdir(parents=True)
    (root / "cifar-10-batches-py.part" / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    assert len(cifar10(root=str(root), mirrors=[], **FACTS).test) == 2
    assert not (root / "cifar-10-batches-py.part").exists()


@pytest.mark.parametrize("spoil", [lambda b: b + b"x", lambda b: b[:-1], lambda b: b[:99] + b"x" + b[100:]])
def test_an_archive_that_is_not_the_published_one_is_refused(root, spoil):
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(spoil(archive.read_bytes()))
    assert refused(root).startswith("cifar-10-python.tar.gz is not the published archive (its MD5 is not ")


def test_a_disk_that_is_full_while_unpacking_leaves_nothing(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tarfile.copyfileobj", full)
    assert refused(root) == f"cifar-10-python.tar.gz cannot be stored and unpacked in {root}: {os.strerror(28)}"


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_published_one_is_refused_and_not_loaded(root, name, tmp_path, monkeypatch):
    cifar10(root=str(root), mirrors=[], **FACTS)
    monkeypatch.chdir(tmp_path)
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Bomb()))
    said = refused(root)
    assert said.startswith(f"cifar-10-batches-py/{name} is not the published file (its MD5 is not ")
    assert said.endswith(f"delete {root}/cifar-10-batches-py to unpack it again")
    assert not Path("exploded").exists()


def test_a_missing_file_is_named(root):
    cifar10(root=str(root), mirrors=[], **FACTS)
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert refused(root).startswith("cifar-10-batches-py/data_batch_3 is missing: delete ")


def test_what_is_no_plain_file_is_refused(root):
    cifar10(root=str(root), mirrors=[], **FACTS)
    file = root / "cifar-10-batches-py" / "data_batch_3"
    file.unlink()
    os.mkfifo(file)
    assert refused(root).startswith("cifar-10-batches-py/data_batch_3 is not the published file")
