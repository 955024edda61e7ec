"""Matplotlib figures in one style. Matplotlib takes half a second to import, so functions import it when called."""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.plotting.terminal import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colour-blind safe palette.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

INK, GREY, PALE = "#262626", "#737373", "#e6e6e6"

AFTER = re.compile(r"(?<=[/ ,_-])")  # where a name may be wrapped

MOST_TICKS = 7

ROUND = [float(f"{times}e{power}") for power in range(-12, 11) for times in (1, 2, 5)]

COUNTS = [value for value in ROUND if value >= 1]

UNITS = {"s": 1, "min": 60, "h": 3600}

TIMES = [times * unit for unit in (1, 60) for times in (1, 2, 5, 10, 20, 30)]  # seconds

TIMES += [times * UNITS["h"] for times in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)]


def figure(
    *, width: float, height: float, rows: int = 1, columns: int = 1, same_x: bool = True
) -> tuple["Figure", list["Axes"]]:
    """A figure of `width` x `height` inches and its axes in reading order, which share y and, with `same_x`, x."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=same_x, sharey=True)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
        axes.grid(color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
    return canvas, list(grid.flat)


def legend(axes: "Axes", **options: Any) -> None:
    """A legend with literal names: a dollar sign does not start a formula."""
    for text in axes.legend(frameon=False, **options).get_texts():
        text.set_parse_math(False)


def in_legend(name: str) -> str:
    """A name as a legend label; matplotlib hides labels that start with "_"."""
    return f" {name}" if name.startswith("_") else name


def folded(name: str, width: int) -> str:
    """A name wrapped to `width` characters, after a folder or a word if possible."""
    pieces = [piece[start : start + width] for piece in AFTER.split(name) for start in range(0, len(piece), width)]
    lines = [""]
    for piece in pieces:
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def save(canvas: "Figure", file: Path) -> None:
    """Write a figure as PNG, and create its directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write(canvas, file, dpi=160)


def write(canvas: "Figure", file: Path | BinaryIO, *, dpi: int) -> None:
    """Write a figure as PNG at `dpi` pixels per inch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box replaces a character that the font lacks
        canvas.savefig(file, dpi=dpi, format="png")


def name_ticks(panel: "Axes", round_values: Sequence[float], name: Callable[[float, int], str]) -> None:
    """Labelled ticks on a logarithmic x axis: at round values or, if few are in range, evenly spaced.

    `name` formats a value with a number of digits, the fewest that distinguish the ticks.
    """
    low, high = panel.get_xlim()
    within = [value for value in round_values if low <= value <= high]
    if len(within) < 3:
        within = Axis(low, high).ticks(MOST_TICKS - 2)
    within = within[:: -(-len(within) // MOST_TICKS)]
    names = next(
        names for digits in range(3, 16) if len(set(names := [name(x, digits) for x in within])) == len(within)
    )
    panel.set_xticks(within, labels=names)
    panel.minorticks_off()


def whole_ticks(panel: "Axes") -> None:
    """Ticks at integers on a linear x axis: there are no metrics at half an epoch."""
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def count(value: float, digits: int) -> str:
    """A count with a unit: 62 k, 0.27 M."""
    unit, size = ("M", 1e6) if value >= 1e5 else ("k", 1e3) if value >= 1e3 else ("", 1)
    return f"{rounded(value / size, digits)} {unit}".rstrip()


def duration(seconds: float, digits: int) -> str:
    """A duration in the largest unit that gives at least 2, else in seconds: 90 s, 2 min, 2.5 h."""
    unit = next((unit for unit in ("h", "min") if seconds >= 2 * UNITS[unit]), "s")
    return f"{rounded(seconds / UNITS[unit], digits)} {unit}"


def rounded(value: float, digits: int) -> str:
    """A number with `digits` significant digits."""
    return f"{float(f'{value:.{digits}g}'):,.15g}"
