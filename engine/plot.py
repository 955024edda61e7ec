"""Pictures in one style. Matplotlib takes half a second to import, which only a command that draws should pay."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, GREY, PALE = "#262626", "#737373", "#e6e6e6"


def figure(
    *, width: float, height: float, rows: int = 1, columns: int = 1, same_x: bool = True
) -> tuple["Figure", list["Axes"]]:
    """A figure of so many inches with its axes in reading order; they share their ranges, that across if `same_x`."""
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


def save(canvas: "Figure", file: Path) -> None:
    """Write a figure as PNG, with its directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=160, format="png")
