"""The report on trained networks: terminal output, evaluation.json and report.html."""

from collections.abc import Iterable, Sequence
from typing import Any

from engine.report import tables
from engine.report.network_result import NetworkResult, comparison, ensemble, require_same_images
from engine.report.page import page
from engine.report.parts import Part
from engine.run.console import logger
from engine.run.directory import RunDirectory, write_json, write_text
from engine.run.errors import NotSaved
from engine.run.find_checkpoint import common_directory


def report(networks: Sequence[NetworkResult], parts: Iterable[Part] = ()) -> None:
    """Print the metrics of networks and further `parts`, and write evaluation.json and report.html.

    Each part is computed and printed in turn. The files of one network are in its run's directory, or in that of its
    checkpoint; those of several, which include their ensemble, in their common directory. If a part fails or is
    stopped, the files hold the parts before it. Raises NotComparable if the test images differ, and NotSaved.
    """
    first, directory, done = networks[0], common_directory([network.file for network in networks]), []
    if len(networks) == 1:
        lines, content = tables.one(first), dict(first.figures)
    else:
        require_same_images(networks)
        networks = [*networks, ensemble(networks)]
        lines = tables.several(networks)
        comparisons = {network.name: comparison(first, network) for network in networks[1:]}
        content = {
            "networks": {network.name: network.figures for network in networks},
            "compared with the first": comparisons,
        }
    print_lines(lines)
    try:
        for part in parts:
            print_lines(["", *part.lines])
            content[part.name] = part.content
            done.append(part)
    finally:
        write(directory, content, page(networks, done))


def write(directory: RunDirectory, content: dict[str, Any], html: str) -> None:
    """Write evaluation.json and report.html, and print where. Raises NotSaved."""
    try:
        write_json(directory.path / "evaluation.json", content)
        write_text(directory.path / "report.html", html)
    except OSError as error:
        raise NotSaved(f"{directory}/evaluation.json could not be written ({error.strerror})") from None
    print_lines(["", f"written to {directory}: evaluation.json, report.html"])


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        logger.info(line)
