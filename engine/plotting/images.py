"""Image grids and confusion matrices as uint8 arrays.

Drawn with Pillow, which takes milliseconds; importing matplotlib would add a second to every job of a sweep.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, BLUE, ORANGE = (38, 38, 38), (8, 81, 156), (168, 68, 10)

MOST_CLASSES = 250  # of a confusion matrix: with more, cells would be smaller than four pixels

NUMBERED = 20  # up to so many classes, cells show their counts

LONGEST = 120  # pixels of a class name

COLUMNS, TILE = 8, 96


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's default font at `size` pixels."""
    return ImageFont.load_default(size)


def fitting(words: str, letters: ImageFont.ImageFont, width: float) -> str:
    """Text, truncated to `width` pixels."""
    if letters.getlength(words) <= width:
        return words
    while words and letters.getlength(f"{words}...") > width:
        words = words[:-1]
    return f"{words}..."


def confusion(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix int64 [K, K], true classes in rows, predicted in columns, as uint8 [H, W, 3].

    Darkness is the square root of the share of the true class, so that rare errors are visible.
    """
    cell = 44 if len(classes) <= NUMBERED else max(4, 900 // len(classes))
    letters = font(min(13, max(cell - 1, 4)))
    margin = round(min(max(map(letters.getlength, classes)), LONGEST)) + 10
    darkness = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    colours = 255 + darkness[..., None] * (np.array(BLUE) - 255)
    squares = np.kron(colours.round().astype(np.uint8), np.ones((cell, cell, 1), np.uint8))
    side = margin + len(squares)
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(Image.fromarray(squares), (margin, margin))
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(classes):
        short, middle = fitting(name, letters, LONGEST), margin + (number + 0.5) * cell
        draw.text((margin - 5, middle), short, INK, letters, anchor="rm")
        column = Image.new("RGB", (margin, cell), "white")
        ImageDraw.Draw(column).text((5, cell / 2), short, INK, letters, anchor="lm")
        sheet.paste(column.rotate(90, expand=True), (margin + number * cell, 0))
    if len(classes) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                corner = (margin + (column + 0.5) * cell, margin + (row + 0.5) * cell)
                draw.text(corner, f"{count}", "white" if darkness[row, column] > 0.5 else INK, letters, anchor="mm")
    return np.asarray(sheet)


def tiles(images: np.ndarray, lines: Sequence[Sequence[str]]) -> np.ndarray:
    """A grid of images uint8 [N, C, H, W], each with lines of text below it, as uint8 [H, W, 3]."""
    letters, line_height, gap = font(12), 15, 12
    height = TILE + len(lines[0]) * line_height + gap
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + gap) + gap, rows * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, below) in enumerate(zip(images, lines, strict=True)):
        left, top = gap + number % COLUMNS * (TILE + gap), gap + number // COLUMNS * height
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        sheet.paste(picture.resize((TILE, TILE), Image.Resampling.NEAREST), (left, top))
        for line, words in enumerate(below):
            corner = (left, top + TILE + 2 + line * line_height)
            draw.text(corner, fitting(words, letters, TILE), ORANGE if line == 1 else INK, letters)
    return np.asarray(sheet)
