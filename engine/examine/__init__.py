"""Trained networks examined: figures, tables, pictures, a page."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoint import NotSaved
from engine.examine import tables
from engine.examine.figures import Examined, augmented, comparison, examined, require_same_images, together
from engine.examine.page import page
from engine.logging import say, write_json, write_text
from engine.rundir import RunDirectory

__all__ = ["augmented", "examined", "report"]


def report(networks: Sequence[Examined], augmented: Sequence[Examined] = ()) -> None:
    """Say the figures of networks, and write them as evaluation.json and report.html.

    Of one also how it does `augmented`. Its files lie in its run's directory, or beside its file; those of several,
    with that of all as one, in the directory that has all of them. Raises NotComparable where the test images are not
    the same ones, and NotSaved.
    """
    first, place = networks[0], common_directory(networks)
    if len(networks) == 1:
        lines, content = [*tables.one(first), *tables.views(augmented)], dict(first.figures)
        if augmented:
            content["tta"] = {view.name: tta_figures(augmented[0], view) for view in augmented}
    else:
        require_same_images(networks)
        networks = [*networks, together(networks)]
        lines = tables.several(networks)
        beside = {network.name: comparison(first, network) for network in networks[1:]}
        content = {"networks": {network.name: network.figures for network in networks}, "beside the first": beside}
    for line in lines:
        say(line)
    try:
        write_json(place.path / "evaluation.json", content)
        write_text(place.path / "report.html", page(networks, augmented))
    except OSError as error:
        raise NotSaved(f"{place}/evaluation.json could not be written ({error.strerror})") from None
    say("")
    say(f"written to {place}: evaluation.json, report.html")


def tta_figures(fastest: Examined, view: Examined) -> dict[str, float]:
    """What an augmentation gains, and its cost."""
    chosen = ("accuracy", "loss", "images_per_second")
    return {figure: view.figures[figure] for figure in chosen} | comparison(fastest, view)


def common_directory(networks: Sequence[Examined]) -> RunDirectory:
    """The run's directory of a checkpoint, or what has all of several."""
    directories = [
        network.file.parent.parent if network.file.parent.name == "checkpoints" else network.file.parent
        for network in networks
    ]
    common = Path(os.path.commonpath([directory.resolve() for directory in directories]))
    return RunDirectory(directories[0] if common == directories[0].resolve() else common)
