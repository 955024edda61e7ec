"""Predict the classes of a user's own images."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from data.dataset import DataError
from data.folder import SUFFIXES, decoded, squared
from engine.build.from_checkpoint import Trained
from engine.evaluation import metrics
from engine.evaluation.tta import mean_logits
from engine.plotting import plot
from engine.run.console import echo, logger, one_line, percent
from engine.run.directory import write_text
from engine.run.errors import NotSaved, RunError
from engine.run.find_checkpoint import common_directory, matches, one_or_more

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BATCH_SIZE = 64

TOP = 5  # classes that are listed for each image

SHOWN = 60  # images at most on the contact sheet

NAME_LENGTH = 18  # characters of a name below an image

COLUMNS, SIDE = 10, 160  # images in a row, and pixels of their longer side


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image with their probabilities; the first is the predicted class."""

    file: Path
    top5: Sequence[tuple[str, float]]

    def __str__(self) -> str:
        (name, probability), *others = self.top5
        rest = ", ".join(f"{other} {percent(share)}" for other, share in others)
        return one_line(f"{self.file}: {name} {percent(probability)} ({rest})")

    def content(self) -> dict[str, Any]:
        """Its line in predictions.jsonl, as plain data."""
        name, probability = self.top5[0]
        return {"file": str(self.file), "class": name, "probability": probability, "top5": self.top5}


class InputImage(NamedTuple):
    """An image as the network's input, uint8 [S, S, 3], and a thumbnail of the original."""

    file: Path
    pixels: np.ndarray
    thumbnail: Image.Image


def predict(trained: Trained, given: str | Sequence[str], checkpoint: Path, *, batch_size: int | None) -> None:
    """Print the predictions for images, and write predictions.jsonl and the contact sheet predictions.png.

    `given` are files and folders. Unreadable files are listed on standard error. Raises RunError if there is no
    readable image, and NotSaved.
    """
    predictions, thumbnails = [], []
    files = image_files(one_or_more(given))
    for images in batches(files, trained.image_shape[-1], batch_size or BATCH_SIZE):
        predicted = top_classes(trained, np.stack([image.pixels for image in images]))
        for image, top5 in zip(images, predicted, strict=True):
            predictions.append(Prediction(image.file, top5))
            logger.info(str(predictions[-1]))
        thumbnails += [image.thumbnail for image in images[: SHOWN - len(thumbnails)]]
    if not predictions:
        kinds = "" if files else f": of a folder those count that end in {', '.join(sorted(SUFFIXES))}"
        raise RunError(f"predict={','.join(one_or_more(given))}: there is no image that can be read{kinds}")
    directory = common_directory([checkpoint])
    try:
        lines = (json.dumps(prediction.content()) + "\n" for prediction in predictions)
        write_text(directory.path / "predictions.jsonl", "".join(lines))
        plot.save(contact_sheet(predictions, thumbnails), directory.path / "predictions.png")
    except OSError as error:
        raise NotSaved(f"{directory}: the predictions could not be written ({error.strerror})") from None
    logger.info("")
    count = "1 image" if len(predictions) == 1 else f"{len(predictions):,} images"
    unread = f", {len(files) - len(predictions):,} more could not be read" if len(files) > len(predictions) else ""
    first = f" (the first {SHOWN})" if len(predictions) > SHOWN else ""
    logger.info(f"{count}{unread}; written to {directory}: predictions.jsonl, predictions.png{first}")


def image_files(given: Sequence[str]) -> list[Path]:
    """Files that are given or match a pattern, and image files in folders, recursively; without duplicates.

    In folders, names that begin with a dot are ignored and links to folders are not followed. An unreadable folder is
    reported on standard error.
    """
    files = []
    for path in (Path(os.path.expanduser(path)) for one in given for path in matches(one) or [one]):
        if not path.is_dir():
            files.append(path)
            continue
        for folder, below, names in os.walk(path, onerror=print_unreadable):
            below[:] = sorted(name for name in below if not name.startswith("."))
            names = sorted(name for name in names if not name.startswith("."))
            files += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return list(dict.fromkeys(files))


def print_unreadable(error: Exception) -> None:
    """Print to standard error what cannot be read."""
    reason = f"{error.filename} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
    echo(one_line(reason), error=True)


def batches(files: Sequence[Path], image_size: int, batch_size: int) -> Iterator[list[InputImage]]:
    """Yield batches of the readable images, in the order of the files."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the GIL
        for start in range(0, len(files), batch_size):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's: a file that cannot be read is reported anyway
                read = list(pool.map(partial(load_image, image_size=image_size), files[start : start + batch_size]))
            for error in (one for one in read if isinstance(one, DataError)):
                print_unreadable(error)
            if found := [one for one in read if isinstance(one, InputImage)]:
                yield found


def load_image(file: Path, image_size: int) -> InputImage | DataError:
    """Read an image, or return the error."""
    try:
        image = decoded(file)
    except DataError as error:
        return error
    scale = SIDE / max(image.size)
    thumbnail = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
    return InputImage(file, squared(image, image_size), thumbnail)


@torch.no_grad()
def top_classes(trained: Trained, images: np.ndarray) -> list[list[tuple[str, float]]]:
    """The TOP most probable (class, probability) of images uint8 [B, S, S, 3], most probable first."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(trained.normalize.mean.device)
    with trained.precision.autocast():
        logits = mean_logits(trained.model.eval(), trained.normalize(pixels), trained.views)
    probabilities = np.exp(metrics.log_probabilities(logits.cpu().numpy()))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return [
        [(trained.classes[label], round(float(shares[label]), 6)) for label in first]
        for shares, first in zip(probabilities, order, strict=True)
    ]


def shortened(name: str) -> str:
    """A name of at most NAME_LENGTH characters; the middle of a longer one is left out."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}…{name[1 - NAME_LENGTH // 2 :]}"


def contact_sheet(predictions: Sequence[Prediction], thumbnails: Sequence[Image.Image]) -> "Figure":
    """Thumbnails of the first images, each with file name, predicted class and probability below it."""
    columns = min(COLUMNS, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    canvas, grid = plot.figure(width=1.2 * columns, height=1.65 * rows, rows=rows, columns=columns)
    for axes in grid:
        axes.set_axis_off()
    for axes, prediction, thumbnail in zip(grid, predictions, thumbnails, strict=False):
        name, probability = prediction.top5[0]
        square = Image.new("RGB", (SIDE, SIDE), "white")
        square.paste(thumbnail, ((SIDE - thumbnail.width) // 2, SIDE - thumbnail.height))
        axes.imshow(square)
        axes.text(
            SIDE / 2,
            SIDE + 6,
            f"{shortened(one_line(prediction.file.name))}\n{shortened(name)}\n{percent(probability)}",
            ha="center",
            va="top",
            fontsize=7,
            color=plot.INK,
            parse_math=False,  # a name is a name, not a formula between dollar signs
        )
    if len(predictions) > len(thumbnails):
        canvas.suptitle(f"the first {len(thumbnails)} of {len(predictions):,} images", fontsize=9, color=plot.GREY)
    return canvas
