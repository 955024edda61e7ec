"""Print all networks: python -m models [--markdown]. The content is read from the headers of conf/model/*.yaml."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.plotting import tables
from engine.run.console import echo

CONF = Path(__file__).resolve().parent.parent / "conf" / "model"
HEAD = re.compile(
    r"# (?P<title>.+?)\. (?P<authors>.+), (?P<year>\d{4}), (?P<venue>.+)\.\n"
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
    venue: str


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
    rows = [("name", "parameters", "multiply-adds", "year", "paper")]
    for entry in entries():
        counts = (f"{entry.parameters:,}", f"{entry.multiply_adds:,}")
        rows.append((entry.name, *counts, str(entry.year), f"{entry.authors}, {entry.venue}"))
    others = {file.stem for file in CONF.glob("*.yaml")} - {entry.name for entry in entries()}
    return "\n".join([*tables.aligned(rows, "lrrll"), *sorted(others)])


def as_markdown() -> str:
    """The networks as a Markdown table, for the documentation."""
    rows = [("`model=`", "network", "parameters", "multiply-adds", "paper")]
    for entry in entries():
        counts = (f"{entry.parameters:,}", f"{entry.multiply_adds:,}")
        rows.append((f"`{entry.name}`", entry.title, *counts, f"{entry.authors}, {entry.year}, {entry.venue}"))
    return tables.as_markdown(rows, "llrrl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m models", description="Print a table of all networks.")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    echo(as_markdown() if parser.parse_args().markdown else as_text())
