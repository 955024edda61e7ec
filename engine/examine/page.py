"""The report of examined networks as one HTML file, which needs nothing beside it and no network."""

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.examine import pictures, tables
from engine.examine.figures import Examined
from engine.logging import percent
from engine.runtime import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Section:
    """A part of the page: rows of a table, of which the first are titles, a picture as base64 of PNG, small ones."""

    title: str
    note: str = ""
    rows: Sequence[Sequence[str]] = ()
    picture: str = ""
    tiles: Sequence["Tile"] = ()


@dataclass(frozen=True)
class Tile:
    """A small picture as base64 of PNG, with lines of text below it."""

    picture: str
    lines: Sequence[str]


def page(networks: Sequence[Examined], augmented: Sequence[Examined] = ()) -> str:
    """The page of one network, also `augmented`, or of several, the last of which is all others together."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
    first = networks[0]
    return template.render(
        title=first.name if len(networks) == 1 else f"{len(networks) - 1} networks and their ensemble",
        facts=f"{len(first.labels):,} test images, {len(first.classes)} classes; torch {versions()['torch']}",
        sections=list(sections(networks, augmented)),
    )


def sections(networks: Sequence[Examined], augmented: Sequence[Examined]) -> Iterator[Section]:
    """What the page shows, from top to bottom."""
    if len(networks) > 1:
        note = f"difference and agreement are with {networks[0].name}; p: chance of such a difference between equals"
        yield Section("Networks", note, tables.network_rows(networks))
    else:
        yield Section("Figures", rows=figure_rows(networks[0]))
    if augmented:
        yield Section("Test-time augmentation", f"beside {augmented[0].name}", tables.view_rows(augmented))
    note = "of how sure a network is and how often it is right; on the dashed line it knows what it knows"
    yield Section("Confidence and accuracy", note, picture=embedded(pictures.reliability(networks)))
    for network in networks:
        of = f": {network.name}" if len(networks) > 1 else ""
        yield Section(f"Classes{of}", rows=tables.class_rows(network))
        yield Section(f"Confusion{of}", "images of each class by what they were taken for", confused_rows(network))
        yield Section(f"Confusion matrix{of}", picture=embedded(pictures.confusion(network)))
        if mistakes := pictures.worst_mistakes(network):
            note = "what it is, what it was taken for, and how sure the network was of that"
            yield Section(f"Surest mistakes{of}", note, tiles=[tile(mistake) for mistake in mistakes])


def tile(mistake: pictures.Mistake) -> Tile:
    """A mistake to look at."""
    from PIL import Image

    pixels, file = mistake.pixels, io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    lines = (mistake.label, mistake.taken, percent(mistake.confidence))
    return Tile(base64.b64encode(file.getvalue()).decode(), lines)


def figure_rows(network: Examined) -> list[Sequence[str]]:
    """The figures of a network, and beside them what a temperature makes of them."""
    figures, calibrated = network.figures, network.figures["calibrated"]
    rows: list[Sequence[str]] = [
        ("", "as it is"),
        ("accuracy (95 % interval)", tables.interval(figures)),
        ("top-5 accuracy", percent(figures["top5_accuracy"])),
        ("loss, nats", f"{figures['loss']:.4f}"),
        ("Brier score", f"{figures['brier_score']:.4f}"),
        ("expected calibration error", percent(figures["expected_calibration_error"])),
        ("parameters", f"{figures['parameters']:,}"),
        ("images a second", f"{figures['images_per_second']:,.0f}"),
    ]
    if calibrated is None:
        return rows
    unchanged = rows[1][1], rows[2][1]
    changed = (
        f"{calibrated['loss']:.4f}",
        f"{calibrated['brier_score']:.4f}",
        percent(calibrated["expected_calibration_error"]),
    )
    titles = f"with temperature {calibrated['temperature']:.3f}, from {calibrated['fitted_on']:,} held-out images"
    beside = [titles, *unchanged, *changed, "", ""]
    return [(*row, other) for row, other in zip(rows, beside, strict=True)]


def confused_rows(network: Examined) -> list[Sequence[str]]:
    """The pairs that are confused most."""
    pairs = network.figures["most_confused"]
    return [
        ("class", "taken for", "images"),
        *((one["class"], one["taken_for"], f"{one['images']:,}") for one in pairs),
    ]


def embedded(figure: "Figure") -> str:
    """A picture as the base64 of its PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it; the tables have the name
        figure.savefig(file, dpi=130, format="png")
    return base64.b64encode(file.getvalue()).decode()
