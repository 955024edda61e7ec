"""CIFAR-10 and CIFAR-100 in their original files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html
(python version). 50,000 training and 10,000 test images of 32x32 pixels.

torchvision reads the same files and checks the same MD5s. This module avoids importing torchvision, which takes one or
two seconds, and supports CIFAR-100's coarse labels. The files are pickles, which can run code: they are loaded only if
their MD5 is the published one.
"""

import os
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import DataError, Dataset, Images, user_path
from data.download import alone, fetch, md5sum


@dataclass(frozen=True)
class Archive:
    """A published archive: its MD5, and the MD5s of the files in its folder."""

    file: str
    md5: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]


CIFAR10 = Archive(
    file="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
)
CIFAR100 = Archive(
    file="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
)


def cifar10(*, root: str, mirrors: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-10 from `root`, downloaded on first use. Raises DataError if the download fails."""
    folder = provide(CIFAR10, user_path(root), mirrors)
    return read(CIFAR10, folder, labels="labels", names="label_names", mean=mean, std=std)


def cifar100(*, root: str, mirrors: Sequence[str], labels: str, mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-100 from `root`, downloaded on first use; `labels` are "fine" (100) or "coarse" (20).

    Raises DataError if the download fails.
    """
    folder = provide(CIFAR100, user_path(root), mirrors)
    return read(CIFAR100, folder, labels=f"{labels}_labels", names=f"{labels}_label_names", mean=mean, std=std)


def provide(archive: Archive, root: Path, mirrors: Sequence[str]) -> Path:
    """The folder with the archive's files in `root`, after downloading and unpacking the archive if needed.

    Of several concurrent processes, one does the work. Raises DataError, which says where to put which file
    if all mirrors fail.
    """
    folder, file = root / archive.folder, root / archive.file
    try:
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f"{archive.file}.lock"):
            if folder.is_dir():  # unpacked by another process meanwhile
                return folder
            if not file.exists():
                download(archive, file, mirrors)
            elif md5sum(file) != archive.md5:
                raise DataError(
                    f"{file} is not the published archive (its MD5 is not {archive.md5}): delete it and retry"
                )
            unpack(file, folder)
    except (OSError, NotImplementedError, ValueError) as error:  # a file system without locks; an invalid name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{archive.file} cannot be stored and unpacked in {root}: {reason}") from None
    return folder


def download(archive: Archive, file: Path, mirrors: Sequence[str]) -> None:
    """Download the archive. Raises DataError, which says what to do instead, and OSError from the disk."""
    try:
        fetch(file, mirrors=mirrors, md5=archive.md5)
    except DataError as error:
        raise DataError(
            f"{error}. Put {archive.file} into {file.parent}, or use dataset=shapes, which needs no download"
        ) from None


def unpack(file: Path, folder: Path) -> None:
    """Unpack an archive with the published MD5; `folder` is created atomically. Raises OSError."""
    part = folder.with_name(f"{folder.name}.part")
    try:
        if part.exists():  # left by a killed process
            shutil.rmtree(part)
        with tarfile.open(file) as tar:
            tar.extractall(part, filter="data")
        os.replace(part / folder.name, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read(
    archive: Archive, folder: Path, *, labels: str, names: str, mean: Sequence[float], std: Sequence[float]
) -> Dataset:
    """The data set in `folder`, with labels and class names under the given keys of its files.

    Raises DataError, which names the file that is missing or is not the published one.
    """
    ((meta, md5),) = archive.meta.items()
    return Dataset(
        train=read_batches(folder, archive.train, labels),
        test=read_batches(folder, archive.test, labels),
        classes=unpickle(folder / meta, md5)[names],
        mean=mean,
        std=std,
    )


def read_batches(folder: Path, files: Mapping[str, str], labels: str) -> Images:
    """The images and labels of several batch files, concatenated. Raises DataError."""
    batches = [unpickle(folder / name, md5) for name, md5 in files.items()]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(images), torch.tensor([label for batch in batches for label in batch[labels]]))


def unpickle(path: Path, md5: str) -> dict[str, Any]:
    """The content of a pickle file. Raises DataError if it is missing or has another MD5."""
    again = f"delete {path.parent} to unpack it again"
    if not path.exists():
        raise DataError(f"{path} is missing: {again}")
    try:
        if not path.is_file() or md5sum(path) != md5:
            raise DataError(f"{path} is not the published file (its MD5 is not {md5}): {again}")
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # NumPy's, about dtypes pickled by Python 2
            return pickle.load(file, encoding="latin1")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
