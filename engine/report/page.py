"""The report of examined networks as one HTML file, which needs nothing beside it and no network."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.device.versions import versions
from engine.plotting.images import MOST_CLASSES, confusion
from engine.report import pictures, tables
from engine.report.figures import Examined
from engine.report.parts import Part, Section, Tile, embedded, embedded_pixels
from engine.run.console import percent

TEMPLATE = Path(__file__).with_name("page.html")


def page(networks: Sequence[Examined], parts: Sequence[Part] = ()) -> str:
    """The page of one network, or of several, the last of which is all others together; with further parts."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
    first = networks[0]
    return template.render(
        title=first.name if len(networks) == 1 else f"{len(networks) - 1} networks and their ensemble",
        facts=f"{len(first.labels):,} test images, {len(first.classes)} classes; torch {versions()['torch']}",
        sections=list(sections(networks, parts)),
    )


def sections(networks: Sequence[Examined], parts: Sequence[Part]) -> Iterator[Section]:
    """What the page shows, from top to bottom."""
    if len(networks) > 1:
        note = f"difference and agreement are with {networks[0].name}; p: chance of such a difference between equals"
        yield Section("Networks", note, tables.network_rows(networks))
    else:
        yield Section("Figures", rows=figure_rows(networks[0]))
    for part in parts:
        yield from part.sections
    note = "of how sure a network is and how often it is right; on the dashed line it knows what it knows"
    yield Section("Confidence and accuracy", note, picture=embedded(pictures.reliability(networks)))
    for network in networks:
        of = f": {network.name}" if len(networks) > 1 else ""
        yield Section(f"Classes{of}", rows=tables.class_rows(network))
        yield Section(f"Confusion{of}", "images of each class by what they were taken for", confused_rows(network))
        if len(network.classes) <= MOST_CLASSES:
            note = "the darker, the larger the share of the class in the row that was taken for the one above"
            picture = embedded_pixels(confusion(network.confusion, network.classes).transpose(2, 0, 1))
            yield Section(f"Confusion matrix{of}", note, picture=picture)
        if mistakes := pictures.worst_mistakes(network):
            note = "what it is, what it was taken for, and how sure the network was of that"
            yield Section(f"Surest mistakes{of}", note, tiles=[tile_of(mistake) for mistake in mistakes])


def tile_of(mistake: pictures.Mistake) -> Tile:
    """A mistake to look at."""
    return Tile(embedded_pixels(mistake.pixels), (mistake.label, mistake.taken, percent(mistake.confidence)))


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
        ("test-time augmentation", figures["tta"]),
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
    beside = [titles, *unchanged, *changed, "", "", ""]
    return [(*row, other) for row, other in zip(rows, beside, strict=True)]


def confused_rows(network: Examined) -> list[Sequence[str]]:
    """The pairs that are confused most."""
    pairs = network.figures["most_confused"]
    return [
        ("class", "taken for", "images"),
        *((one["class"], one["taken_for"], f"{one['images']:,}") for one in pairs),
    ]
