"""Pictures made of images and squares, as uint8 arrays.

They are drawn by Pillow, in milliseconds: to import matplotlib would take a second of every job of a sweep.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, BLUE, ORANGE = (38, 38, 38), (8, 81, 156), (168, 68, 10)

MOST_CLASSES = 250  # of a confusion matrix: squares of more would be smaller than four points

NUMBERED = 20  # classes at most whose confusion is written as numbers, too

LONGEST = 120  # pixels of a class's name

COLUMNS, TILE = 8, 96


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font with so many pixels a line."""
    return ImageFont.load_default(size)


def fitting(words: str, letters: ImageFont.ImageFont, width: float) -> str:
    """Words, cut where they would be wider than so many pixels."""
    if letters.getlength(words) <= width:
        return words
    while words and letters.getlength(f"{words}...") > width:
        words = words[:-1]
    return f"{words}..."


def confusion(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """How many images of each class (row) were taken for each (column), int64 [K, K], as uint8 [H, W, 3].

    The darker, the larger the share of the class: by its root, so that a few mistakes show.
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
                place = (margin + (column + 0.5) * cell, margin + (row + 0.5) * cell)
                draw.text(place, f"{count}", "white" if darkness[row, column] > 0.5 else INK, letters, anchor="mm")
    return np.asarray(sheet)


def tiles(images: np.ndarray, lines: Sequence[Sequence[str]]) -> np.ndarray:
    """Images uint8 [N, C, H, W], each with lines of text below it, as one, uint8 [H, W, 3]."""
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
            place = (left, top + TILE + 2 + line * line_height)
            draw.text(place, fitting(words, letters, TILE), ORANGE if line == 1 else INK, letters)
    return np.asarray(sheet)
