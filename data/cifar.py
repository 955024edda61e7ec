"""CIFAR-10 and CIFAR-100 in their original files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html
(python version). 50,000 training and 10,000 test images of 32x32 pixels.

torchvision reads the same files; this module does it without torchvision's import (a second or two
of every start), with CIFAR-100's coarse labels, and without running what the files may hold as code.
"""

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import DataError, Dataset, Images, user_path
from data.download import alone, fetch, md5sum
from data.plain_pickle import ByteArray, NotPlain, as_name, load

PIXELS = 3 * 32 * 32  # of one image: red, green, blue, each row after row
MOST_FILE_BYTES = 1 << 28  # the largest of the published files has 155 MB
MOST_UNPACKED_BYTES = 1 << 29  # the larger of the published archives 186 MB


@dataclass(frozen=True)
class Archive:
    """One of the two published archives: its file and checksum, and what lies in it.

    `classes` is the number of class names under each key of `meta` that has some.
    """

    file: str
    md5: str
    folder: str
    train: Sequence[str]
    test: Sequence[str]
    meta: str
    classes: Mapping[str, int]


CIFAR10 = Archive(
    file="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=[f"data_batch_{number}" for number in range(1, 6)],
    test=["test_batch"],
    meta="batches.meta",
    classes={"label_names": 10},
)
CIFAR100 = Archive(
    file="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=["train"],
    test=["test"],
    meta="meta",
    classes={"fine_label_names": 100, "coarse_label_names": 20},
)


def cifar10(*, root: str, mirrors: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-10 from `root`, downloaded on first use. Raises DataError where that fails."""
    folder = provide(CIFAR10, user_path(root), mirrors)
    return read(CIFAR10, folder, labels="labels", names="label_names", mean=mean, std=std)


def cifar100(*, root: str, mirrors: Sequence[str], labels: str, mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """CIFAR-100 from `root`, downloaded on first use; `labels` are "fine" (100) or "coarse" (20).

    Raises DataError where the download fails.
    """
    folder = provide(CIFAR100, user_path(root), mirrors)
    return read(CIFAR100, folder, labels=f"{labels}_labels", names=f"{labels}_label_names", mean=mean, std=std)


def provide(archive: Archive, root: Path, mirrors: Sequence[str]) -> Path:
    """The folder with the archive's files: as it is found in `root`, or unpacked, or downloaded and unpacked.

    Of several processes that want it at once, one does the work. Raises DataError that says where to
    put which file if there is no other way.
    """
    folder, file = root / archive.folder, root / archive.file
    try:
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f"{archive.file}.lock"):
            if folder.is_dir():  # by now
                return folder
            if not file.exists():
                download(archive, file, mirrors)
            elif md5sum(file) != archive.md5:
                raise DataError(
                    f"{file} is not the published archive (its MD5 is not {archive.md5}): delete it and start again"
                )
            unpack(archive, file, folder)
    except (OSError, NotImplementedError, ValueError) as error:  # a file system without locks; a name that cannot be
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{archive.file} cannot be kept and unpacked in {root}: {reason}") from None
    return folder


def download(archive: Archive, file: Path, mirrors: Sequence[str]) -> None:
    """Fetch the archive. Raises DataError that says what can be done instead, and OSError of the disk."""
    try:
        fetch(file, mirrors=mirrors, md5=archive.md5)
    except DataError as error:
        raise DataError(
            f"{error}. Put {archive.file} into {file.parent}, or use dataset=shapes, which needs no file"
        ) from None


def unpack(archive: Archive, file: Path, folder: Path) -> None:
    """Write the archive's files into `folder`, which is there with all of them or not at all.

    Raises DataError for an archive that holds anything else than it should, and OSError of the disk.
    """
    files = contents(archive, file)
    part = folder.with_name(f"{folder.name}.part")
    try:
        for left in folder.parent.glob(f"{folder.name}.*part"):  # by a process that was killed
            shutil.rmtree(left)
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def contents(archive: Archive, file: Path) -> dict[str, bytes]:
    """What the archive's own files hold, by their names; whatever else there is has to lie in its folder.

    Everything is read in main memory, so that nothing is written of an archive that is refused.
    Raises DataError.
    """
    wanted = {f"{archive.folder}/{name}": name for name in [*archive.train, *archive.test, archive.meta]}
    files = {}
    try:
        with gzip.open(file) as stream:
            unpacked = stream.read(MOST_UNPACKED_BYTES + 1)
        if len(unpacked) > MOST_UNPACKED_BYTES:
            raise DataError(f"{file} holds more than {MOST_UNPACKED_BYTES:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            for member in tar:
                plain = (member.isfile() and not member.issparse()) or member.isdir()
                inside = member.name.split("/")[0] == archive.folder and ".." not in member.name.split("/")
                # A negative size would lead the reader back to where it has been.
                if not (plain and inside and 0 <= member.size <= MOST_FILE_BYTES):
                    raise DataError(f"{file} holds what CIFAR does not: {member.name}")
                if member.name in wanted:
                    if not member.isfile() or wanted[member.name] in files:
                        raise DataError(f"{file} holds what CIFAR does not: {member.name}, twice or as a folder")
                    files[wanted[member.name]] = tar.extractfile(member).read()
    except DataError:
        raise
    except Exception as error:  # of many kinds: gzip, zlib and tarfile trust what they read
        raise DataError(f"{file} cannot be unpacked: {error or type(error).__name__}") from None
    if missing := [name for name in wanted if wanted[name] not in files]:
        raise DataError(f"{file} lacks {missing[0]}")
    return files


def read(
    archive: Archive, folder: Path, *, labels: str, names: str, mean: Sequence[float], std: Sequence[float]
) -> Dataset:
    """The data set in `folder`, with the labels and the class names under the given keys of its files.

    Raises DataError that names the file that is missing or is not as it should be.
    """
    classes = archive.classes[names]
    return Dataset(
        train=read_batches([folder / name for name in archive.train], labels, classes),
        test=read_batches([folder / name for name in archive.test], labels, classes),
        classes=read_names(folder / archive.meta, names, classes),
        mean=mean,
        std=std,
    )


def read_batches(files: Sequence[Path], labels: str, classes: int) -> Images:
    """The images and labels of several batch files, one after the other. Raises DataError."""
    batches = [read_batch(file, labels, classes) for file in files]
    images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    return Images(
        torch.from_numpy(images), torch.tensor([label for _, part in batches for label in part], dtype=torch.int64)
    )


def read_batch(file: Path, labels: str, classes: int) -> tuple[np.ndarray, list[int]]:
    """The images (uint8 [N, 3072]) and labels (below `classes`) of one batch file. Raises DataError."""
    batch = unpickle(file)
    images, numbers = batch.get("data"), batch.get(labels)
    if not isinstance(images, np.ndarray):
        raise refusal(file, "it has no array as data")
    if images.ndim != 2 or images.shape[1] != PIXELS or not len(images):
        raise refusal(file, f"its images are {list(images.shape)} in place of [N, {PIXELS}]")
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise refusal(file, f"it has no list of whole numbers as {labels}")
    if len(numbers) != len(images):
        raise refusal(file, f"it has {len(numbers):,} {labels} for {len(images):,} images")
    if wrong := [number for number in (min(numbers), max(numbers)) if not 0 <= number < classes]:
        raise refusal(file, f"one of its {labels} is {wrong[0]:,}, of {classes} classes")
    return images, numbers


def read_names(file: Path, names: str, classes: int) -> list[str]:
    """The names of the classes. Raises DataError."""
    found = unpickle(file).get(names)
    if not isinstance(found, list) or len(found) != classes:
        count = f"{len(found):,}" if isinstance(found, list) else "no list of"
        raise refusal(file, f"it has {count} {names} for {classes} classes")
    try:
        return [as_name(name) for name in found]
    except NotPlain as error:
        raise refusal(file, f"in {names} it has {error}") from None


def unpickle(path: Path) -> dict[str, Any]:
    """One of the archive's files as a dict with text keys; arrays are uint8. Raises DataError for anything else."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MOST_FILE_BYTES:
            raise refusal(path, f"it has {size:,} bytes" if path.is_file() else "it is no plain file")
        content = load(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: delete {path.parent}, so that it is unpacked again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path} cannot be read: there is too little memory") from None
    except NotPlain as error:
        raise refusal(path, str(error)) from None
    if not isinstance(content, dict):
        raise refusal(path, f"it holds a {type(content).__name__}")
    return {key: value.values if isinstance(value, ByteArray) else value for key, value in content.items()}


def refusal(path: Path, why: str) -> DataError:
    """What to say of a file with something else in it than CIFAR's files hold."""
    return DataError(
        f"{path} is not a file of CIFAR's python version: {why}; delete {path.parent}, so that it is unpacked again"
    )
