"""Leaderboard of many runs: a row for each configuration, with mean and standard deviation over its seeds.

Configurations are sorted by validation accuracy; without validation images, by name.
"""

import csv
import io
import json
import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from engine.config.did_you_mean import as_typed
from engine.config.identity import deciding
from engine.plotting import tables
from engine.plotting.tables import aligned
from engine.run.console import duration

CONFIDENCE = 0.95

ABSENT = "-"

REFERENCE = re.compile(r"\$\{([\w.]+)\}")

REGULARIZED = (
    "augmentation",
    "mixing",
    "loss",
    "step",
    "averages",
)  # keys that options of the group regularization set


@dataclass(frozen=True)
class Run:
    """One run: the options of its config groups, its settings, result.json and metrics.jsonl.

    `settings` maps the dotted keys that alter the result, without the seed, to their values; `interpolated` are those
    keys that only refer to others.
    """

    directory: Path
    choices: dict[str, Any]
    settings: dict[str, Any]
    interpolated: frozenset[str]
    result: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether it has a result."""
        return self.result["status"] == "finished"

    @property
    def has_started(self) -> bool:
        """Whether its configuration is known: a run that fails before training records only the error."""
        return "regularization" in self.result or self.is_finished

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The metrics of its epochs."""
        return [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]

    @property
    def epochs(self) -> int:
        """Epochs done so far; in a running run result.json has the number at its start or resume."""
        return len(self.records) if (self.directory / "metrics.jsonl").exists() else self.result["epochs"]

    def setting(self, key: str) -> str:
        """The option of a group, or the value of a key, as text."""
        if (option := self.choices.get(key)) is not None:
            return as_typed(sorted(option) if isinstance(option, list) else option)
        return as_typed(self.settings[key]) if key in self.settings else ABSENT

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the epoch and weights of the result; None without validation."""
        weights = self.result["chosen_weights"]
        return self.result.get("val_accuracy" if weights == "model" else f"val_accuracy_{weights}")


def read_runs(directory: Path) -> list[Run]:
    """All runs below a directory, including unfinished ones."""
    return [read_run(file.parent) for file in sorted(directory.rglob("result.json"))]


def read_run(directory: Path) -> Run:
    """Read a run from its files."""
    result = json.loads((directory / "result.json").read_text())
    chosen = read_yaml(directory / ".hydra" / "hydra.yaml").get("hydra", {}).get("runtime", {}).get("choices", {})
    choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    if "regularization" in result:  # Hydra does not record the options of a list
        choices["regularization"] = result["regularization"]
    written = deciding(read_yaml(directory / ".hydra" / "config.yaml"))
    written.pop("seed", None)
    named = {name: match[1] for name, value in written.items() if (match := REFERENCE.fullmatch(str(value)))}
    settings = {name: written.get(named.get(name, name), value) for name, value in written.items()}
    return Run(directory, choices, settings, frozenset(named), result)


def read_yaml(file: Path) -> dict[str, Any]:
    """The content of a YAML file; empty if it does not exist."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    return yaml.load(file.read_text(), Loader=loader) if file.exists() else {}


def configurations(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs grouped by settings: the runs of a group differ only in the seed."""
    found: list[list[Run]] = []
    for run in runs:
        same = next((members for members in found if members[0].settings == run.settings), None)
        found.append([run]) if same is None else same.append(run)
    return found


def varied(runs: Iterable[Run]) -> list[str]:
    """The groups and keys, without the seed, in which the runs that have started to train differ.

    A key or nested group that belongs to an option of a group counts only if runs with the same option differ in it.
    """
    firsts = [members[0] for members in configurations(run for run in runs if run.has_started)]
    groups = dict.fromkeys(group for run in firsts for group in run.choices)
    interpolated = {name for run in firsts for name in run.interpolated}
    keys = dict.fromkeys(key for run in firsts for key in run.settings if key not in interpolated)

    def differ(name: str) -> bool:
        group, values = group_of(name, groups), {}
        for run in firsts:
            values.setdefault(run.setting(group) if group else "", set()).add(run.setting(name))
        return any(len(found) > 1 for found in values.values())

    return list(filter(differ, [*groups, *keys]))


def group_of(name: str, groups: Iterable[str]) -> str | None:
    """The group whose option contains a key or nested group; None if there is none.

    For model.block_attention.reduction it is attention@model.block_attention, and for the latter model.
    """
    inner = name.partition("@")[2] or name
    top = inner.partition(".")[0]
    packages = {group.partition("@")[2] or group: group for group in groups if group != name}
    inside = [package for package in packages if inner == package or inner.startswith(f"{package}.")]
    return packages[max(inside, key=len)] if inside else "regularization" if top in REGULARIZED else None


@dataclass(frozen=True)
class Row:
    """One configuration: its values of the settings that vary, and its finished runs."""

    settings: dict[str, str]
    runs: Sequence[Run]

    def mean(self, figure: str) -> float:
        """The mean over seeds of an entry of result.json."""
        return statistics.fmean(run.result[figure] for run in self.runs)

    @property
    def test_accuracies(self) -> dict[int, float]:
        """Test accuracy by seed."""
        return {run.result["seed"]: run.result["test_accuracy"] for run in self.runs}

    @property
    def val_accuracies(self) -> list[float]:
        """Validation accuracies of the runs that have one."""
        return [run.val_accuracy for run in self.runs if run.val_accuracy is not None]

    @property
    def name(self) -> str:
        """Its values as text."""
        return ", ".join(self.settings.values()) or "all runs"


def rows(runs: Sequence[Run]) -> list[Row]:
    """Finished runs by configuration, best validation accuracy first; of runs with the same seed only the last."""
    keys = varied(runs)
    done = [last_run_per_seed(members) for members in configurations(run for run in runs if run.is_finished)]
    found = [Row({key: members[0].setting(key) for key in keys}, members) for members in done]
    return sorted(found, key=lambda row: (-statistics.fmean(row.val_accuracies or [0.0]), *row.settings.values()))


def last_run_per_seed(runs: Iterable[Run]) -> list[Run]:
    """The last run of each seed: repeated runs add no information on the variance."""
    return list({run.result["seed"]: run for run in runs}.values())


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def difference(first: dict[int, float], other: dict[int, float]) -> tuple[float, float] | None:
    """Mean of `other` minus mean of `first`, and half the width of its confidence interval.

    Student's t: paired by seed if both have the same seeds, else with Welch's degrees of freedom. None for a single
    seed, or zero variance.
    """
    from scipy.stats import t

    mean = statistics.fmean(other.values()) - statistics.fmean(first.values())
    if first.keys() == other.keys():
        spread = deviation([other[seed] - first[seed] for seed in first])
        error, freedom = (spread or 0) / math.sqrt(len(first)), len(first) - 1
    else:
        if min(len(first), len(other)) < 2:
            return None
        parts = [statistics.variance(some.values()) / len(some) for some in (first, other)]
        error = math.sqrt(sum(parts))
        shares = zip(parts, (first, other), strict=True)
        freedom = sum(parts) ** 2 / (sum(part**2 / (len(some) - 1) for part, some in shares) or 1)
    if not error or freedom <= 0:
        return None
    return mean, float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error


NUMBERS = (
    "seeds",
    "val_accuracy",
    "val_accuracy_std",
    "test_accuracy",
    "test_accuracy_std",
    "difference",
    "difference_ci",
    "parameters",
    "multiply_adds",
    "images_per_second",
    "seconds",
)


def row_figures(row: Row, first: Row) -> dict[str, float | int | None]:
    """A row's values by the names in NUMBERS, accuracies between 0 and 1; None for missing ones."""
    tested, held_out = list(row.test_accuracies.values()), row.val_accuracies
    apart = None if row is first else difference(first.test_accuracies, row.test_accuracies)
    mean = statistics.fmean(tested)
    return {
        "seeds": len(row.runs),
        "val_accuracy": statistics.fmean(held_out) if held_out else None,
        "val_accuracy_std": deviation(held_out),
        "test_accuracy": mean,
        "test_accuracy_std": deviation(tested),
        "difference": None if row is first else mean - statistics.fmean(first.test_accuracies.values()),
        "difference_ci": apart[1] if apart else None,
        "parameters": row.runs[0].result["params"],
        "multiply_adds": row.runs[0].result["multiply_adds"],
        "images_per_second": row.mean("images_per_second"),
        "seconds": row.mean("seconds"),
    }


def formatted(found: dict[str, float | int | None]) -> list[str]:
    """A row's values formatted as text, in the order of TITLES."""

    def percent(name: str, error: str, sign: str = "") -> str:
        if found[name] is None:
            return "-"
        plus_minus = "" if found[error] is None else f" +- {100 * found[error]:.2f}"
        return f"{100 * found[name]:{sign}.2f}{plus_minus}"

    return [
        str(found["seeds"]),
        percent("val_accuracy", "val_accuracy_std"),
        percent("test_accuracy", "test_accuracy_std"),
        percent("difference", "difference_ci", "+"),
        f"{found['parameters']:,}",
        f"{found['multiply_adds'] / 1e6:,.1f} M",
        f"{found['images_per_second']:,.0f}",
        duration(found["seconds"]),
    ]


TITLES = ("seeds", "val, %", "test, %", "to the first", "parameters", "multiply-adds", "images/s", "time")

SIZES = ("parameters", "multiply-adds")  # columns that are left out if equal in all rows


def cells(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns and the rows of the table, as text."""
    body = [[*row.settings.values(), *formatted(row_figures(row, found[0]))] for row in found]
    return [*found[0].settings, *TITLES], body


def as_text(runs: Sequence[Run]) -> str:
    """The table for a terminal, followed by the unfinished runs.

    Sizes that are equal in all rows are printed below the table, which makes it narrower.
    """
    if not (found := rows(runs)):
        return "\n".join(["no run is finished", *unfinished(runs)])
    titles, body = cells(found)
    shared = [
        index for index, title in enumerate(titles) if title in SIZES and len({line[index] for line in body}) == 1
    ]
    below = ", ".join(f"{body[0][index]} {titles[index]}" for index in shared)
    titles, *body = [[cell for index, cell in enumerate(line) if index not in shared] for line in [titles, *body]]
    lines = aligned([titles, *body], columns(len(found[0].settings), len(titles)))
    return "\n".join([*lines, "", *([f"each network: {below}"] if below else []), caption(found), *unfinished(runs)])


def as_markdown(found: Sequence[Row]) -> str:
    """The table for a README."""
    titles, body = cells(found)
    return tables.as_markdown([titles, *body], columns(len(found[0].settings), len(titles))) + "\n"


def columns(settings: int, count: int) -> str:
    """The alignment of `count` columns, of which the first are settings."""
    return f"{'l' * settings}{'r' * (count - settings)}"


def as_csv(found: Sequence[Row]) -> str:
    """The table for a program: plain numbers, accuracies as shares of 1, seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*found[0].settings, *NUMBERS])
    for row in found:
        figures = row_figures(row, found[0])
        writer.writerow([*row.settings.values(), *("" if figures[name] is None else figures[name] for name in NUMBERS)])
    return text.getvalue()


def caption(found: Sequence[Row]) -> str:
    """A caption that explains the table."""
    if any(len(row.runs) > 1 for row in found):
        return "accuracies: mean +- standard deviation over seeds; difference in test accuracy: +- 95 % interval"
    if len(found) == 1:
        return "a single seed"
    return "a single seed each: use seed=0,1,2 to see whether differences are significant"


def unfinished(runs: Sequence[Run]) -> list[str]:
    """A line for each unfinished run."""
    found = []
    for run in runs:
        if not run.is_finished:
            why = textwrap.shorten(f": {run.result['error']}" if "error" in run.result else "", 200, placeholder=" ...")
            done = run.epochs
            found.append(f"{run.directory.name}: {run.result['status']} after {done} epoch{'s' * (done != 1)}{why}")
    return found
