"""Print the recipes: python -m engine.recipes [--markdown]. What it says stands in the files of conf/recipe/."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
    found = []
    for file in (CONF / "recipe").glob("*.yaml"):
        content = read(f"recipe/{file.stem}", below=read("config"))
        attention = [option for place, option in content["chosen"].items() if place.startswith("/attention@")]
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
    table = [tuple(title.strip("`=") for title in COLUMNS), *rows()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def as_markdown() -> str:
    """The recipes as the table of docs/recipes.md."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- | ---: | ---: | ---: | --- |"]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in rows()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m engine.recipes", description="Print every recipe.")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    print(as_markdown() if parser.parse_args().markdown else as_text())
