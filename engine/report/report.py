"""Trained networks examined: figures, tables, pictures, a page."""

from collections.abc import Iterable, Sequence
from typing import Any

from engine.report import tables
from engine.report.figures import Examined, comparison, require_same_images, together
from engine.report.page import page
from engine.report.parts import Part
from engine.run.console import say
from engine.run.directory import RunDirectory, write_json, write_text
from engine.run.errors import NotSaved
from engine.run.paths import common_directory


def report(networks: Sequence[Examined], parts: Iterable[Part] = ()) -> None:
    """Say the figures of networks and further `parts`, and write them as evaluation.json and report.html.

    What takes long to find out is said as soon as it is known: `parts` are taken one by one. The files of one network
    lie in its run's directory, or beside its file; those of several, with that of all as one, in the directory that has
    all of them. Where a part fails, or is stopped, they hold what came before it. Raises NotComparable where the test
    images are not the same ones, and NotSaved.
    """
    first, place, taken = networks[0], common_directory([network.file for network in networks]), []
    if len(networks) == 1:
        lines, content = tables.one(first), dict(first.figures)
    else:
        require_same_images(networks)
        networks = [*networks, together(networks)]
        lines = tables.several(networks)
        beside = {network.name: comparison(first, network) for network in networks[1:]}
        content = {"networks": {network.name: network.figures for network in networks}, "beside the first": beside}
    say_all(lines)
    try:
        for part in parts:
            say_all(["", *part.lines])
            content[part.name] = part.content
            taken.append(part)
    finally:
        keep(place, content, page(networks, taken))


def keep(place: RunDirectory, content: dict[str, Any], html: str) -> None:
    """Write evaluation.json and report.html, and say so. Raises NotSaved."""
    try:
        write_json(place.path / "evaluation.json", content)
        write_text(place.path / "report.html", html)
    except OSError as error:
        raise NotSaved(f"{place}/evaluation.json could not be written ({error.strerror})") from None
    say_all(["", f"written to {place}: evaluation.json, report.html"])


def say_all(lines: Iterable[str]) -> None:
    """Say some lines."""
    for line in lines:
        say(line)
