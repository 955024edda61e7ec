"""The data set types, and the split of training images into training and validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 1000  # images whose pixels are counted at once


class DataError(Exception):
    """A problem with the data that the user can fix; the message is one line.

    File names and server responses are untrusted: line breaks and other non-printable characters, such as
    terminal control codes, are escaped.
    """

    def __init__(self, message: str):
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message))


def user_path(text: str) -> Path:
    """A path with ~ or ~name expanded. Raises DataError if there is no such home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"{text}: there is no such home directory") from None


@dataclass(frozen=True)
class Images:
    """Labelled images: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Images":
        """The images at `indices` (int64 [n]), copied."""
        return Images(self.images.index_select(0, indices), self.labels[indices])  # twice as fast as images[indices]

    def to(self, device: torch.device) -> "Images":
        """The same images on `device`."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test images with the names of their classes.

    `mean` and `std` are per channel, on the scale from 0 to 1; if one is empty, `split`
    measures it on the training images.
    """

    train: Images
    test: Images
    classes: Sequence[str]
    mean: Sequence[float] = ()
    std: Sequence[float] = ()


@dataclass(frozen=True)
class Splits:
    """The images of a run. `val` is empty if no images are held out."""

    train: Images
    val: Images
    test: Images
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]


def split(
    dataset: Dataset, *, val_size: float, train_limit: int | None = None, test_limit: int | None = None, seed: int = 0
) -> Splits:
    """Hold out part of the training images for validation, then keep at most `*_limit` of the others.

    `val_size` is a number of images, or below 1 a fraction of the training images; 0 holds out none.
    Every subset is stratified (to within one image per class) and depends only on `seed` and the
    labels, so that runs with the same seed compare on the same images. Raises DataError if fewer than
    one image per class would be left for training, or if mean or std do not match the number of
    channels.
    """
    labels, generator = dataset.train.labels, torch.Generator().manual_seed(seed)
    held_out = int(val_size) if val_size >= 1 else round(val_size * len(labels))
    if held_out + len(dataset.classes) > len(labels):
        raise DataError(
            f"dataset.val_size={val_size} leaves too few of the {len(labels)} training images "
            f"for {len(dataset.classes)} classes"
        )
    if train_limit is not None and train_limit < len(dataset.classes):
        raise DataError(f"dataset.train_limit={train_limit} leaves too few images for {len(dataset.classes)} classes")
    order = stratified_order(labels, generator)
    train = dataset.train.subset(order[held_out:][:train_limit])
    mean, std = dataset.mean, dataset.std
    if not (mean and std):
        measured = channel_statistics(train.images)
        mean, std = mean or measured[0], std or measured[1]
    channels = train.images.shape[1]
    if not len(mean) == len(std) == channels:
        raise DataError(f"dataset.mean={list(mean)} and dataset.std={list(std)}: the images have {channels} channels")
    test_order = stratified_order(dataset.test.labels, generator)
    return Splits(
        train=train,
        val=dataset.train.subset(order[:held_out]),
        test=dataset.test if test_limit is None else dataset.test.subset(test_order[:test_limit]),
        classes=dataset.classes,
        mean=mean,
        std=std,
    )


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of all images (int64 [N]) of which every prefix is stratified by class.

    The images of a class are shuffled and spread evenly over the interval from 0 to 1, with a random
    phase per class; sorting by that position interleaves the classes.
    """
    position = torch.empty(len(labels), dtype=torch.float64)
    for members in labels.argsort(stable=True).split(labels.unique(return_counts=True)[1].tolist()):
        rank = torch.randperm(len(members), generator=generator)
        phase = torch.rand((), generator=generator, dtype=torch.float64)
        position[members] = (rank + phase) / len(members)
    return position.argsort()


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, on the scale from 0 to 1.

    images: uint8 [N, C, H, W]. Computed exactly from histograms, five times as fast as from sums.
    """
    levels, means, stds = torch.arange(256), [], []
    for channel in images.unbind(1):
        counts = sum(torch.bincount(part.flatten(), minlength=256) for part in channel.split(CHUNK))
        mean = int((counts * levels).sum()) / channel.numel()
        variance = int((counts * levels**2).sum()) / channel.numel() - mean**2
        means.append(mean / 255)
        stds.append(max(math.sqrt(variance), 1.0) / 255)
    return means, stds
