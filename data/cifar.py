"""CIFAR-10 and CIFAR-100 in their original files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html
(python version). 50,000 training and 10,000 test images of 32x32 pixels.

torchvision reads the same files; this module does it without torchvision's import (a second or two
of every start), with CIFAR-100's coarse labels, and with an unpickler that runs no code.
"""

import os
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import DataError, Dataset, Images
from data.download import fetch, md5sum


@dataclass(frozen=True)
class Archive:
    """One of the two published archives: its file and checksum, and what lies in it."""

    file: str
    md5: str
    folder: str
    train: Sequence[str]
    test: Sequence[str]
    meta: str


CIFAR10 = Archive(
    file="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=[f"data_batch_{number}" for number in range(1, 6)],
    test=["test_batch"],
    meta="batches.meta",
)
CIFAR100 = Archive(
    file="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=["train"],
    test=["test"],
    meta="meta",
)


def cifar10(*, root: str, mirrors: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-10 from `root`, downloaded on first use. Raises DataError where that fails."""
    folder = provide(CIFAR10, Path(root).expanduser(), mirrors)
    return read(CIFAR10, folder, labels="labels", names="label_names", mean=mean, std=std)


def cifar100(*, root: str, mirrors: Sequence[str], labels: str, mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-100 from `root`, downloaded on first use; `labels` are "fine" (100) or "coarse" (20).

    Raises DataError where the download fails.
    """
    folder = provide(CIFAR100, Path(root).expanduser(), mirrors)
    return read(CIFAR100, folder, labels=f"{labels}_labels", names=f"{labels}_label_names", mean=mean, std=std)


def provide(archive: Archive, root: Path, mirrors: Sequence[str]) -> Path:
    """The folder with the archive's files: as it is found in `root`, or unpacked, or downloaded and unpacked.

    Raises DataError that says where to put which file if there is no other way.
    """
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    file = root / archive.file
    if not file.exists():
        try:
            fetch(file, mirrors=mirrors, md5=archive.md5)
        except DataError as error:
            raise DataError(
                f"{error}. Put {archive.file} into {root}, or use dataset=shapes, which needs no file"
            ) from None
    elif md5sum(file) != archive.md5:
        raise DataError(
            f"{file} is not the published archive (its MD5 is not {archive.md5}): delete it and start again"
        )
    unpacking = root / f"{archive.folder}.{os.getpid()}.part"
    with tarfile.open(file) as tar:
        tar.extractall(unpacking, filter="data")
    os.replace(unpacking / archive.folder, folder)
    unpacking.rmdir()
    return folder


def read(
    archive: Archive, folder: Path, *, labels: str, names: str, mean: Sequence[float], std: Sequence[float]
) -> Dataset:
    """The data set in `folder`, with the labels and the class names under the given keys of its files."""
    return Dataset(
        train=read_batches([folder / name for name in archive.train], labels),
        test=read_batches([folder / name for name in archive.test], labels),
        classes=unpickle(folder / archive.meta)[names],
        mean=mean,
        std=std,
    )


def read_batches(files: Sequence[Path], labels: str) -> Images:
    """The images and labels of several batch files, one after the other."""
    batches = [unpickle(file) for file in files]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return Images(
        torch.from_numpy(images),
        torch.tensor([label for batch in batches for label in batch[labels]], dtype=torch.int64),
    )


ADMITTED = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)


class PlainUnpickler(pickle.Unpickler):
    """Reads what CIFAR's files hold (dicts, lists, strings, numbers, one uint8 array) and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array is made of; numpy 2 keeps one of these elsewhere than the files say."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR file")
        return np.ndarray.__reduce__(np.empty(0))[0] if name == "_reconstruct" else super().find_class(module, name)


def unpickle(path: Path) -> dict[str, Any]:
    """One of the archive's files as a dict with text keys. Raises DataError for anything else."""
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: delete {path.parent}, so that it is unpacked again") from None
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a file of CIFAR's python version: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a file of CIFAR's python version: it holds a {type(content).__name__}")
    return content
