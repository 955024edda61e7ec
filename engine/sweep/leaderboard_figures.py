"""The figures of a leaderboard: accuracy against parameters, and curves over epochs."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.plotting import plot
from engine.sweep.leaderboard import Row, Run, as_csv, as_markdown, deviation, row_figures, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(found: Sequence[Row], directory: Path) -> None:
    """Accuracy against parameters and against time, and learning curves: leaderboard_*.png."""
    scatter(found, "parameters", directory / "leaderboard_parameters.png")
    scatter(found, "seconds", directory / "leaderboard_time.png")
    curves(found, directory / "leaderboard_curves.png")


def colour(number: int) -> str:
    """The colour of a row by its index; rows after the first few are grey."""
    return plot.COLOURS[number] if has_name(number) else "#b3b3b3"


def scatter(found: Sequence[Row], figure: str, file: Path) -> None:
    """Test accuracy against another quantity, with error bars of a standard deviation; the first rows are named."""
    canvas, (panel,) = plot.figure(width=7.5, height=4.4)
    for number, row in reversed(list(enumerate(found))):
        figures = row_figures(row, found[0])
        x, y = figures[figure], 100 * figures["test_accuracy"]
        spread = 100 * (figures["test_accuracy_std"] or 0)
        panel.errorbar(x, y, yerr=spread, fmt="o", color=colour(number), capsize=3, label=label(row, number))
    panel.set(xscale="log")
    panel.margins(x=0.1)
    plot.name_ticks(panel, *{"parameters": (plot.COUNTS, plot.count), "seconds": (plot.TIMES, plot.duration)}[figure])
    panel.set_xlabel({"parameters": "parameters", "seconds": "time of training"}[figure], color=plot.INK)
    panel.set_ylabel("test accuracy, %", color=plot.INK)
    name_rows(panel, loc="best")
    plot.save(canvas, file)


def has_name(number: int) -> bool:
    """Whether the legend names the row with this index: later rows have no colour of their own."""
    return number < len(plot.COLOURS)


def label(row: Row, number: int) -> str:
    """The legend's label of a row; "_" is not shown."""
    return plot.in_legend(row.name) if has_name(number) else "_"


def name_rows(panel: "Axes", *, loc: str) -> None:
    """Add a legend in the order of the rows, which are drawn in reverse."""
    plot.legend(panel, fontsize=9, labelcolor=plot.INK, loc=loc, reverse=True)


def curves(found: Sequence[Row], file: Path) -> None:
    """Validation accuracy (training accuracy without validation) by epoch: mean and standard deviation band."""
    canvas, (panel,) = plot.figure(width=7.5, height=4.4)
    held_out = all(row.val_accuracies for row in found)
    for number, row in reversed(list(enumerate(found))):
        lines = [accuracies(run, held_out) for run in row.runs]
        columns = list(zip(*(line[: min(map(len, lines))] for line in lines), strict=True))
        means = [100 * statistics.fmean(column) for column in columns]
        spreads = [100 * (deviation(column) or 0) for column in columns]
        epochs, is_named = range(1, len(means) + 1), has_name(number)
        dot = "o" if len(means) == 1 else ""  # a single point has no line
        style = {"color": colour(number), "linewidth": 1.8 if is_named else 0.8, "label": label(row, number)}
        panel.plot(epochs, means, dot + "-", **style)
        if is_named:
            low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
            high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
            panel.fill_between(epochs, low, high, color=colour(number), alpha=0.15, linewidth=0)
    plot.whole_ticks(panel)
    panel.set_xlabel("epoch", color=plot.INK)
    panel.set_ylabel(f"{'validation' if held_out else 'training'} accuracy, %", color=plot.INK)
    name_rows(panel, loc="lower right")
    plot.save(canvas, file)


def accuracies(run: Run, held_out: bool) -> list[float]:
    """A run's validation or training accuracy by epoch."""
    key = "val_accuracy" if held_out else next(key for key in run.records[0] if key.startswith("train_accuracy"))
    return [record[key] for record in run.records]


def write(runs: Sequence[Run], directory: Path) -> None:
    """Write leaderboard.csv, leaderboard.md and the figures; at least one run is finished. Raises OSError."""
    found = rows(runs)
    (directory / "leaderboard.csv").write_text(as_csv(found))
    (directory / "leaderboard.md").write_text(as_markdown(found))
    draw(found, directory)
