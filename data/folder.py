"""A user's own images: `train/<class>/*` and `test/<class>/*`, in any common format and of any size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data.dataset import DataError, Dataset, Images

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def folder(*, root: str, image_size: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Dataset:
    """The images below `root`, each resized to a square of `image_size` pixels where it is not one already.

    Classes are the folders of `train/` in alphabetical order. Raises DataError, which names the
    file or folder, for a missing or empty folder, a single class, a class in test that train lacks,
    or a file that is no image.
    """
    base = Path(root).expanduser()
    classes = class_names(base / "train")
    if len(classes) == 1:
        raise DataError(f"{base / 'train'} has one class, {classes[0]}: there is nothing to tell apart")
    unknown = sorted(set(class_names(base / "test")) - set(classes))
    if unknown:
        raise DataError(f"{base / 'test' / unknown[0]} is a class that {base / 'train'} lacks")
    return Dataset(
        train=read_split(base / "train", classes, image_size),
        test=read_split(base / "test", classes, image_size),
        classes=classes,
        mean=mean or (),
        std=std or (),
    )


def class_names(split: Path) -> list[str]:
    """The names of the folders in `split`. Raises DataError where there is none."""
    if not split.is_dir():
        raise DataError(f"{split} is not a directory: dataset=folder wants {split}/<class>/*.png or the like")
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{split} has no folders: dataset=folder wants one for each class")
    return names


def read_split(split: Path, classes: Sequence[str], image_size: int) -> Images:
    """All images of one split with the positions of their classes as labels."""
    files, labels = [], []
    for label, name in enumerate(classes):
        directory = split / name
        found = sorted(file for file in directory.glob("*") if file.suffix.lower() in SUFFIXES)
        if directory.is_dir() and not found:
            raise DataError(f"{directory} holds no image ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    images = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)

    def decode(index: int) -> None:
        images[index] = read_image(files[index], image_size)

    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock
        for _ in pool.map(decode, range(len(files)), chunksize=64):
            pass
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64))


def read_image(file: Path, image_size: int) -> np.ndarray:
    """One image as uint8 [image_size, image_size, 3], whatever its size and mode. Raises DataError that names it."""
    try:
        with Image.open(file) as image:
            image = as_rgb(ImageOps.exif_transpose(image))
            if image.size != (image_size, image_size):
                image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """Three channels of eight bits: transparent places on white, and of sixteen bits of grey the upper eight."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
