"""The parts of a report: each has data, lines for the terminal and sections of the page."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

from engine.plotting import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


T = TypeVar("T")


@dataclass(frozen=True)
class Tile:
    """A small picture as base64 of PNG, with lines of text below it."""

    picture: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A section of the page: table rows (the first is the header), a picture as base64 of PNG, tiles."""

    title: str
    note: str = ""
    rows: Sequence[Sequence[str]] = ()
    picture: str = ""
    tiles: Sequence[Tile] = ()


@dataclass(frozen=True)
class Part:
    """A part of a report: plain data under a name in evaluation.json, lines for the terminal, sections of the page."""

    name: str
    content: dict[str, Any]
    lines: Sequence[str]
    sections: Sequence[Section]


def progress_bar(work: Iterable[T], title: str, unit: str) -> Iterable[T]:
    """Iterate over `work` with a progress bar, on a terminal, if it takes longer than a second."""
    return tqdm(work, desc=title, unit=unit, leave=False, disable=None, delay=1)


def embedded(figure: "Figure") -> str:
    """A picture as the base64 of its PNG."""
    file = io.BytesIO()
    plot.write(figure, file, dpi=130)
    return base64.b64encode(file.getvalue()).decode()


def embedded_pixels(pixels: np.ndarray) -> str:
    """An image uint8 [C, H, W], of one channel or three, as the base64 of its PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
