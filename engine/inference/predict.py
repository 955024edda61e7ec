"""What a trained network takes a user's own images for."""

import json
import os
import sys
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
from engine.run.console import one_line, percent, say
from engine.run.directory import write_text
from engine.run.errors import NotSaved, RunError
from engine.run.paths import common_directory, matches, one_or_more

if TYPE_CHECKING:
    from matplotlib.figure import Figure


AT_ONCE = 64  # images that are read and answered together

NAMED = 5  # classes of each image

SHOWN = 60  # images at most on the contact sheet

LONGEST = 18  # signs of a name below an image

COLUMNS, SIDE = 10, 160  # images in its row, and pixels of their longer side


@dataclass(frozen=True)
class Prediction:
    """The classes that an image most probably shows, each with its probability; the first is the answer."""

    file: Path
    top5: Sequence[tuple[str, float]]

    def __str__(self) -> str:
        (name, probability), *others = self.top5
        behind = ", ".join(f"{other} {percent(share)}" for other, share in others)
        return one_line(f"{self.file}: {name} {percent(probability)} ({behind})")

    def content(self) -> dict[str, Any]:
        """What predictions.jsonl says of it."""
        name, probability = self.top5[0]
        return {"file": str(self.file), "class": name, "probability": probability, "top5": self.top5}


class Photograph(NamedTuple):
    """An image as the network sees it, uint8 [S, S, 3], and a smaller copy of it as it is."""

    file: Path
    pixels: np.ndarray
    thumbnail: Image.Image


def predict(trained: Trained, given: str | Sequence[str], checkpoint: Path, *, at_once: int | None) -> None:
    """Say the classes of images, and write them as predictions.jsonl and, the first, as the picture predictions.png.

    `given` are files and folders. What cannot be read is named on standard error. Raises RunError if nothing can,
    and NotSaved.
    """
    predictions, thumbnails = [], []
    files = image_files(one_or_more(given))
    for photographs in batches(files, trained.image_shape[-1], at_once or AT_ONCE):
        answers = most_probable(trained, np.stack([photograph.pixels for photograph in photographs]))
        for photograph, top5 in zip(photographs, answers, strict=True):
            predictions.append(Prediction(photograph.file, top5))
            say(str(predictions[-1]))
        thumbnails += [photograph.thumbnail for photograph in photographs[: SHOWN - len(thumbnails)]]
    if not predictions:
        kinds = "" if files else f": of a folder those count that end in {', '.join(sorted(SUFFIXES))}"
        raise RunError(f"predict={','.join(one_or_more(given))}: there is no image that can be read{kinds}")
    place = common_directory([checkpoint])
    try:
        lines = (json.dumps(prediction.content()) + "\n" for prediction in predictions)
        write_text(place.path / "predictions.jsonl", "".join(lines))
        plot.save(contact_sheet(predictions, thumbnails), place.path / "predictions.png")
    except OSError as error:
        raise NotSaved(f"{place}: the predictions could not be written ({error.strerror})") from None
    say("")
    count = "1 image" if len(predictions) == 1 else f"{len(predictions):,} images"
    unread = f", {len(files) - len(predictions):,} more could not be read" if len(files) > len(predictions) else ""
    first = f" (the first {SHOWN})" if len(predictions) > SHOWN else ""
    say(f"{count}{unread}; written to {place}: predictions.jsonl, predictions.png{first}")


def image_files(given: Sequence[str]) -> list[Path]:
    """The files that are given or match a pattern, and what has the name of an image in and below folders; each once.

    Names that begin with a dot do not count, and links to folders are not followed. A folder that cannot be read is
    named on standard error.
    """
    files = []
    for path in (Path(os.path.expanduser(path)) for one in given for path in matches(one) or [one]):
        if not path.is_dir():
            files.append(path)
            continue
        for folder, below, names in os.walk(path, onerror=complain):
            below[:] = sorted(name for name in below if not name.startswith("."))
            names = sorted(name for name in names if not name.startswith("."))
            files += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return list(dict.fromkeys(files))


def complain(error: Exception) -> None:
    """Name what cannot be read; the others go on."""
    reason = f"{error.filename} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
    print(one_line(reason), file=sys.stderr)


def batches(files: Sequence[Path], image_size: int, at_once: int) -> Iterator[list[Photograph]]:
    """The images that can be read, in the order of the files."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
        for start in range(0, len(files), at_once):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's: a file is read, or named as one that is not
                read = list(pool.map(partial(photograph, image_size=image_size), files[start : start + at_once]))
            for error in (one for one in read if isinstance(one, DataError)):
                complain(error)
            if found := [one for one in read if isinstance(one, Photograph)]:
                yield found


def photograph(file: Path, image_size: int) -> Photograph | DataError:
    """An image, or why it is none."""
    try:
        image = decoded(file)
    except DataError as error:
        return error
    scale = SIDE / max(image.size)
    thumbnail = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
    return Photograph(file, squared(image, image_size), thumbnail)


@torch.no_grad()
def most_probable(trained: Trained, images: np.ndarray) -> list[list[tuple[str, float]]]:
    """The classes of images uint8 [B, S, S, 3] with their probabilities, the most probable first."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(trained.normalize.mean.device)
    with trained.precision.autocast():
        logits = mean_logits(trained.model.eval(), trained.normalize(pixels), trained.views)
    probabilities = np.exp(metrics.log_probabilities(logits.cpu().numpy()))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :NAMED]
    return [
        [(trained.classes[label], round(float(shares[label]), 6)) for label in first]
        for shares, first in zip(probabilities, order, strict=True)
    ]


def shortened(name: str) -> str:
    """A name without its middle where it is longer than there is room for below an image."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"


def contact_sheet(predictions: Sequence[Prediction], thumbnails: Sequence[Image.Image]) -> "Figure":
    """The first images as they are, each above its file's name, its class and percent; how many there are in all."""
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
