"""Trained networks examined: figures, tables, pictures, a page."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoint import NotSaved
from engine.examine import tables
from engine.examine.every_tta import every_tta
from engine.examine.figures import Examined, comparison, examined, require_same_images, together
from engine.examine.page import page
from engine.examine.parts import Part
from engine.logging import say, write_json, write_text
from engine.rundir import RunDirectory

__all__ = ["every_tta", "examined", "report"]


def report(networks: Sequence[Examined], parts: Sequence[Part] = ()) -> None:
    """Say the figures of networks and further `parts`, and write them as evaluation.json and report.html.

    The files of one network lie in its run's directory, or beside its file; those of several, with that of all as one,
    in the directory that has all of them. Raises NotComparable where the test images are not the same ones, and
    NotSaved.
    """
    first, place = networks[0], common_directory(networks)
    if len(networks) == 1:
        lines, content = list(tables.one(first)), dict(first.figures)
    else:
        require_same_images(networks)
        networks = [*networks, together(networks)]
        lines = list(tables.several(networks))
        beside = {network.name: comparison(first, network) for network in networks[1:]}
        content = {"networks": {network.name: network.figures for network in networks}, "beside the first": beside}
    for part in parts:
        lines += ["", *part.lines]
        content[part.name] = part.content
    for line in lines:
        say(line)
    try:
        write_json(place.path / "evaluation.json", content)
        write_text(place.path / "report.html", page(networks, parts))
    except OSError as error:
        raise NotSaved(f"{place}/evaluation.json could not be written ({error.strerror})") from None
    say("")
    say(f"written to {place}: evaluation.json, report.html")


def common_directory(networks: Sequence[Examined]) -> RunDirectory:
    """The run's directory of a checkpoint, or what has all of several."""
    directories = [
        network.file.parent.parent if network.file.parent.name == "checkpoints" else network.file.parent
        for network in networks
    ]
    common = Path(os.path.commonpath([directory.resolve() for directory in directories]))
    return RunDirectory(directories[0] if common == directories[0].resolve() else common)
