"""A user's own images: `train/<class>/*` and `test/<class>/*`, in any common format and of any size."""

import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data.dataset import DataError, Dataset, Images, user_path

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
# Accepted formats, whatever the suffix. Pillow supports more, and would start Ghostscript for one of them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
FORM = "train/<class>/*.png or the like, and test/<class>/* as well"
LEAST_SIDE = 4
MOST_PIXELS = 1 << 26  # 8192 x 8192, 0.2 GB decoded; below Pillow's own warning threshold


def folder(*, root: str, image_size: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Dataset:
    """The images below `root`, each resized to a square of `image_size` pixels if needed.

    Classes are the folders of `train/` in alphabetical order; names that start with a dot are ignored.
    Raises DataError, which names the file or folder, for a missing, empty or unreadable folder, a single
    class, a class in test that train lacks, or a file that is not an image of 4x4 to 67 million pixels.
    """
    base = user_path(root)
    classes = class_names(base / "train")
    if len(classes) == 1:
        raise DataError(f"{base / 'train'} has only one class, {classes[0]}: at least two are needed")
    tested = class_names(base / "test")
    unknown = sorted(set(tested) - set(classes))
    if unknown:
        raise DataError(f"{base / 'test' / unknown[0]} is a class that is missing in {base / 'train'}")
    return Dataset(
        train=read_split(base / "train", classes, classes, image_size),
        test=read_split(base / "test", tested, classes, image_size),
        classes=classes,
        mean=mean or (),
        std=std or (),
    )


def visible(directory: Path) -> list[str]:
    """The names in a directory, sorted, without those that start with a dot. Raises DataError."""
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{directory} is not a directory: dataset=folder needs {FORM}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{directory} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def class_names(split: Path) -> list[str]:
    """The names of the folders in `split`. Raises DataError if there is none."""
    names = []
    for name in visible(split):
        if os.path.isdir(split / name):
            names.append(name)
        elif not os.path.exists(split / name):  # e.g. a link to a disk that is not mounted
            raise DataError(f"{split / name} is a broken link, or cannot be read")
    if not names:
        raise DataError(f"{split} has no folders, one per class: dataset=folder needs {FORM}")
    for name in names:
        if any("\ud800" <= sign <= "\udfff" for sign in name):  # not UTF-8
            raise DataError(f"{split / name} is not a valid class name: it is not UTF-8")
    return names


def read_split(split: Path, names: Sequence[str], classes: Sequence[str], image_size: int) -> Images:
    """All images of the classes `names` in one split; labels are positions in `classes`. Raises DataError."""
    files, labels, positions = [], [], {name: label for label, name in enumerate(classes)}
    for name in names:
        directory = split / name
        found = [directory / file for file in visible(directory) if os.path.splitext(file)[1].lower() in SUFFIXES]
        if not found:
            raise DataError(f"{directory} has no images ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [positions[name]] * len(found)
    try:
        images = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)
    except (MemoryError, ValueError):
        size = f"{image_size}x{image_size}"
        raise DataError(f"{split} has {len(files):,} images: at {size} pixels they do not fit in memory") from None

    def decode(index: int) -> DataError | None:
        try:
            images[index] = read_image(files[index], image_size)
        except DataError as error:
            return error
        return None

    # Decoding releases the GIL. Pillow's warnings are ignored: a file is read or rejected.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        failures = [error for error in pool.map(decode, range(len(files))) if error]
    if failures:
        others = f" (and {len(failures) - 1:,} more images in {split} failed)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{others}")
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64))


def read_image(file: Path, image_size: int) -> np.ndarray:
    """One image as uint8 [image_size, image_size, 3], of any size and mode. Raises DataError, which names it."""
    return squared(decoded(file), image_size)


def squared(image: Image.Image, image_size: int) -> np.ndarray:
    """An image in RGB as uint8 [image_size, image_size, 3]."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def decoded(file: Path) -> Image.Image:
    """One image in RGB with EXIF rotation applied; first frame of an animation. Raises DataError, which names it."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # reading a pipe would block
            raise DataError(f"{file} is not a plain file")
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if min(width, height) < LEAST_SIDE:
                raise DataError(f"{file} has {width}x{height} pixels: at least {LEAST_SIDE}x{LEAST_SIDE} are needed")
            if width * height > MOST_PIXELS:
                raise DataError(f"{file} has {width}x{height} pixels: at most {MOST_PIXELS:,} are allowed")
            return as_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{file} cannot be read as an image: its format is not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # of many types: Pillow's readers do not validate their input
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DataError(f"{file} cannot be read as an image: {reason}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB image: transparency is composited on white, 16-bit grey is reduced to its upper eight bits.

    Raises ValueError for floating-point pixels.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white level")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
