"""Line charts in the terminal, drawn in Braille characters, each 2 dots wide and 4 high."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

BRAILLE = 0x2800

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # the bit of each dot, by row and column

ASCII = {ord("│"): "|", ord("┤"): "+", ord("┴"): "+", ord("└"): "+", ord("─"): "-", ord("…"): "~"}


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, linear or, with `log`, logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """The position of a value along the axis, clamped to 0 to 1."""
        low, high, value = (math.log10(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self, most: int) -> list[float]:
        """About `most` round values within the axis: powers of ten, or multiples of 1, 2 or 5 times one."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**decade for decade in decades[:: -(-len(decades) // most) or 1]]
        if self.high <= self.low:
            return [self.low]
        size = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(size * times for times in (1, 2, 5, 10) if (self.high - self.low) / (size * times) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def chart(
    points: Sequence[tuple[float, float]], *, x: Axis, y: Axis, width: int, height: int, title: str = ""
) -> list[str]:
    """The line through `points` as text, at most `width` characters wide, with `height` lines for the curve."""
    labels = {dot(1 - y.share(tick), 4 * height) // 4: f"{tick:g}" for tick in y.ticks(height // 2)}
    margin = max(map(len, labels.values()), default=0) + 1
    columns = width - margin - 1
    rows = canvas(points, x=x, y=y, columns=columns, rows=height)
    lines = [f"{'':{margin}}{shortened(title, columns + 1)}"] if title else []
    for number, row in enumerate(rows):
        label = labels.get(number, "")
        lines.append(f"{label:>{margin - 1}} {'┤' if label else '│'}{row}".rstrip())
    base, names = ["─"] * columns, [" "] * width
    for tick in x.ticks(max(columns // 10, 2)):
        column, name = dot(x.share(tick), 2 * columns) // 2, f"{tick:g}"
        base[column] = "┴"
        begin = min(margin + 1 + column - (len(name) - 1) // 2, width - len(name))
        if all(letter == " " for letter in names[max(begin - 1, 0) : begin + len(name) + 1]):
            names[begin : begin + len(name)] = name
    return [*lines, f"{'':{margin}}└{''.join(base)}", "".join(names).rstrip()]


def canvas(points: Sequence[tuple[float, float]], *, x: Axis, y: Axis, columns: int, rows: int) -> list[str]:
    """The line through `points` as rows of Braille characters, from the top."""
    cells = [[0] * columns for _ in range(rows)]
    dots = [(dot(x.share(across), 2 * columns), dot(1 - y.share(up), 4 * rows)) for across, up in points]
    for (left, top), (right, bottom) in pairwise([*dots, *dots[-1:]]):
        steps = max(abs(right - left), abs(bottom - top), 1)
        for step in range(steps + 1):
            column = left + round((right - left) * step / steps)
            row = top + round((bottom - top) * step / steps)
            cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    return ["".join(chr(BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def dot(share: float, dots: int) -> int:
    """The index of the dot, of `dots` in a row, at the fraction `share` of its length."""
    return round(share * (dots - 1))


def side_by_side(charts: Iterable[list[str]], *, width: int) -> list[str]:
    """Several charts in one row of `width` characters, equally wide."""
    charts = list(charts)
    each = width // len(charts)
    return ["".join(f"{line:<{each}}" for line in row).rstrip() for row in zip_longest(*charts, fillvalue="")]


def shortened(text: str, width: int) -> str:
    """The text, truncated to `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def printable(text: str, encoding: str | None) -> str:
    """The text, with ASCII replacements if `encoding` cannot represent it."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return "".join("*" if BRAILLE <= ord(letter) < BRAILLE + 256 else letter for letter in text.translate(ASCII))
    return text
