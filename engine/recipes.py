"""Print the recipes: python -m engine.recipes [--markdown]. What it says stands in the files of conf/recipe/.

python -m engine.recipes --results [DIRECTORY ...] compares the runs there with the published results.
"""

import argparse
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.plotting import tables
from engine.plotting.tables import aligned
from engine.run.console import echo
from engine.sweep.leaderboard import Run, deviation, last_run_per_seed, read_runs

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class Recipe:
    """One recipe: its name, its network and epochs, what to expect on each data set, and where that is published."""

    name: str
    network: str
    epochs: int
    cifar10: str
    cifar100: str
    source: str


def recipes() -> Iterator[Recipe]:
    """Every recipe of conf/recipe/: those for any network first, then by name, numbers as numbers."""
    found, base = [], read("config")
    for file in (CONF / "recipe").glob("*.yaml"):
        content = read(f"recipe/{file.stem}", below=base)
        attention = [option for key, option in content["chosen"].items() if key.startswith("/attention@")]
        network = " + ".join([content["chosen"].get("override /model", "any"), *attention])
        goals = content["expected"]
        accuracies = [goal(**goals[dataset]) for dataset in ("cifar10", "cifar100")]
        found.append(
            Recipe(file.stem, network, content["trainer"]["max_epochs"], *accuracies, goals["source"] or "a guess")
        )
    yield from sorted(found, key=lambda recipe: (recipe.network != "any", numbered(recipe.name)))


def read(path: str, below: dict[str, Any] | None = None) -> dict[str, Any]:
    """A file of conf/ over the content of the recipes that it inherits and of `below`; "chosen" are its options."""
    content = yaml.safe_load((CONF / f"{path}.yaml").read_text())
    merged = below or {"chosen": {}}
    for default in content.pop("defaults"):
        if isinstance(default, dict):
            merged = merge(merged, {"chosen": default})
        elif default != "_self_":
            merged = read(f"recipe/{default}", below=merged)
    return merge(merged, content)


def merge(below: Any, above: Any) -> Any:
    """Two contents as one, where the second says another value than the first."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merge(below.get(key), value) for key, value in above.items()}


def goal(*, test_accuracy: float | None, tolerance: float) -> str:
    """What to expect, as a person reads it."""
    return "-" if test_accuracy is None else f"{test_accuracy:.2f} +- {tolerance:.2f}"


def numbered(name: str) -> list[tuple[str, int]]:
    """A name as what sorts resnet20 before resnet110."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D+)(\d*)", name)]


COLUMNS = ("`recipe=`", "network", "CIFAR-10, %", "CIFAR-100, %", "epochs", "source")


def rows() -> Iterator[tuple[str, str, str, str, str, str]]:
    """Each recipe as its cells, in the order of COLUMNS."""
    for recipe in recipes():
        yield recipe.name, recipe.network, recipe.cifar10, recipe.cifar100, str(recipe.epochs), recipe.source


def as_text() -> str:
    """The recipes as a table for the terminal."""
    return "\n".join(aligned([tuple(title.strip("`=") for title in COLUMNS), *rows()], "llrrrl"))


def as_markdown() -> str:
    """The recipes as the table of docs/recipes.md."""
    return tables.as_markdown([COLUMNS, *((f"`{name}`", *cells) for name, *cells in rows())], "llrrrl")


# Results


def results(runs: Iterable[Run]) -> str:
    """Finished runs of recipes compared with the published results, and the number of runs with other settings."""
    followed: dict[tuple[str, str], list[Run]] = {}
    others = 0
    for run in runs:
        if run.is_finished and run.result.get("expected"):
            if run.result["expected"]["changed"]:
                others += 1
            else:
                followed.setdefault((run.result["recipe"], run.result["dataset"]), []).append(run)
    lines = list(aligned([RESULT_COLUMNS, *map(result_row, sorted(followed.items()))], "llrrrrll")) if followed else []
    if not followed:
        lines.append("no finished run follows a recipe whose result is published")
    if others:
        lines.append(f"not compared: {others} runs with other settings than their recipe's")
    return "\n".join(lines)


RESULT_COLUMNS = ("recipe", "data set", "seeds", "test, %", "published, %", "difference", "", "source")


def result_row(found: tuple[tuple[str, str], list[Run]]) -> Sequence[str]:
    """The cells of one recipe on one data set, in the order of RESULT_COLUMNS."""
    (recipe, dataset), runs = found
    accuracies = [100 * run.result["test_accuracy"] for run in last_run_per_seed(runs)]
    expected = runs[0].result["expected"]
    mean, spread = statistics.fmean(accuracies), deviation(accuracies)
    difference = mean - expected["test_accuracy"]
    return (
        recipe,
        dataset,
        str(len(accuracies)),
        f"{mean:.2f}{'' if spread is None else f' +- {spread:.2f}'}",
        goal(test_accuracy=expected["test_accuracy"], tolerance=expected["tolerance"]),
        f"{difference:+.2f}",
        verdict(difference, expected["tolerance"]),
        expected["source"],
    )


def verdict(difference: float, tolerance: float) -> str:
    """Whether a result was reached: no farther below than the tolerance; to twice of that it is close."""
    if difference >= -tolerance:
        return "reached"
    return "close" if difference >= -2 * tolerance else "missed"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m engine.recipes", description="Print every recipe.")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    help_ = "instead, compare runs with the published results; searches outputs and multirun if none is given"
    parser.add_argument("--results", nargs="*", type=Path, metavar="DIRECTORY", help=help_)
    arguments = parser.parse_args()
    if arguments.results is None:
        echo(as_markdown() if arguments.markdown else as_text())
    else:
        directories = arguments.results or [Path("outputs"), Path("multirun")]
        if missing := [directory for directory in arguments.results if not directory.is_dir()]:
            parser.exit(2, f"python -m engine.recipes: {missing[0]}: no such directory\n")
        echo(results(run for directory in directories for run in read_runs(directory)))
