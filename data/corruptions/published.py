"""Published test sets for CIFAR: CIFAR-10-C, CIFAR-100-C and CIFAR-10.1.

Hendrycks and Dietterich 2019, arXiv 1903.12261, https://zenodo.org/records/2535967 and /3555552: the test images with
each corruption, ordered by severity. Recht et al. 2018, "Do CIFAR-10 classifiers generalize to CIFAR-10?", arXiv
1806.00451, https://github.com/modestyachts/CIFAR-10.1: 2,000 new images, collected as CIFAR-10's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.dataset import DataError, Images, user_path

PIXELS = (32, 32, 3)
TEST_IMAGES, SEVERITIES = 10_000, 5


@dataclass(frozen=True)
class Published:
    """Files of CIFAR-10-C or CIFAR-100-C, uint8 [50000, 32, 32, 3] by corruption, memory-mapped."""

    files: dict[str, np.ndarray]

    def corrupted(self, name: str, severity: int, chosen: Tensor) -> Tensor:
        """The test images at `chosen` (int64 [n], ascending) with a corruption, uint8 [n, C, H, W]."""
        images = self.files[name][(severity - 1) * TEST_IMAGES + chosen.numpy()]
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def published(root: str, names: Sequence[str], test: Images) -> Published:
    """The files of these corruptions in a directory, checked against the `test` images.

    Raises DataError, which names the file that is missing, malformed, or of other images.
    """
    directory = user_path(root)
    file = directory / "labels.npy"
    labels = array(file, (SEVERITIES * TEST_IMAGES,))
    if labels.dtype.kind not in "iu":
        raise DataError(f"{file} holds {labels.dtype}, not integers")
    if tuple(test.images.shape) != (TEST_IMAGES, 3, 32, 32):
        wanted = [TEST_IMAGES, 3, 32, 32]
        raise DataError(f"{directory} is for test images {wanted}, those of the network are {shape(test.images)}")
    if not (labels.reshape(SEVERITIES, TEST_IMAGES) == test.labels.cpu().numpy()).all():
        raise DataError(f"{file} has other labels than the network's test images")
    return Published({name: pictures(directory / f"{name}.npy", SEVERITIES * TEST_IMAGES) for name in names})


def cifar10_1(root: str) -> Images | None:
    """CIFAR-10.1 (version 6), if it is in this directory. Raises DataError for malformed files."""
    data, answers = (user_path(root) / f"cifar10.1_v6_{what}.npy" for what in ("data", "labels"))
    if not (data.exists() or answers.exists()):
        return None
    images = pictures(data)
    labels = array(answers, (len(images),))
    if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{answers} does not hold labels from 0 to 9")
    return Images(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels.astype(np.int64, copy=True))
    )


def pictures(file: Path, count: int | None = None) -> np.ndarray:
    """A file of images, uint8 [count, 32, 32, 3], memory-mapped. Raises DataError."""
    images = array(file, (count, *PIXELS))
    if images.dtype != np.uint8:
        raise DataError(f"{file} holds {images.dtype} in place of uint8")
    return images


def array(file: Path, wanted: tuple[int | None, ...]) -> np.ndarray:
    """A memory-mapped NumPy file of the `wanted` shape, where None is any size. Raises DataError."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{file} is missing") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of many types: NumPy does not validate its input
        raise DataError(f"{file} is not a NumPy file: {error or type(error).__name__}") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise DataError(f"{file} is an archive of several arrays")
    if not same_shape(found.shape, wanted):
        written = ", ".join("N" if size is None else str(size) for size in wanted)
        raise DataError(f"{file} has the shape {shape(found)} in place of [{written}]")
    return found


def same_shape(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is the `wanted` one, where None is any size."""
    return len(found) == len(wanted) and all(size in (None, its) for its, size in zip(found, wanted, strict=True))


def shape(some: np.ndarray | Tensor) -> str:
    """A shape as text."""
    return str(list(some.shape))
