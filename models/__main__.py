"""Print all networks: python -m models [--markdown]. The content is read from the headers of conf/model/*.yaml."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.run.console import echo

CONF = Path(__file__).resolve().parent.parent / "conf" / "model"
HEAD = re.compile(
    r"# (?P<title>.+?)\. (?P<authors>.+), (?P<year>\d{4}), (?P<place>.+)\.\n"
    r"# 10 classes: (?P<parameters>[\d,]+) parameters, (?P<multiply_adds>[\d,]+) multiply-adds; 100: .+\.\n"
)


@dataclass(frozen=True)
class Entry:
    """One network: its name, title, paper, and its counts for 10 classes and 32x32 pixels."""

    name: str
    title: str
    parameters: int
    multiply_adds: int
    authors: str
    year: int
    place: str


def entries() -> Iterator[Entry]:
    """Every network of conf/model/ with paper and counts in its header, by year, authors and number of parameters."""
    found = []
    for file in CONF.glob("*.yaml"):
        head = HEAD.match(file.read_text())
        if head is None:
            continue
        values = head.groupdict()
        for name in ("parameters", "multiply_adds", "year"):
            values[name] = int(values[name].replace(",", ""))
        found.append(Entry(file.stem, **values))
    yield from sorted(found, key=lambda entry: (entry.year, entry.authors, entry.parameters))


def as_text() -> str:
    """The networks as a table for the terminal; those without such a header are listed last, by name only."""
    lines = [f"{'name':<24}{'parameters':>12}{'multiply-adds':>16}  {'year':<6}paper"]
    for entry in entries():
        counts = f"{entry.parameters:>12,}{entry.multiply_adds:>16,}"
        lines.append(f"{entry.name:<24}{counts}  {entry.year:<6}{entry.authors}, {entry.place}")
    lines += sorted({file.stem for file in CONF.glob("*.yaml")} - {entry.name for entry in entries()})
    return "\n".join(lines)


def as_markdown() -> str:
    """The networks as a Markdown table, for the documentation."""
    lines = ["| `model=` | network | parameters | multiply-adds | paper |", "| --- | --- | ---: | ---: | --- |"]
    for entry in entries():
        lines.append(
            f"| `{entry.name}` | {entry.title} | {entry.parameters:,} | {entry.multiply_adds:,} "
            f"| {entry.authors}, {entry.year}, {entry.place} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m models", description="Print a table of all networks.")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    echo(as_markdown() if parser.parse_args().markdown else as_text())
