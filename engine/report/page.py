"""The report as one self-contained HTML file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.device.versions import versions
from engine.plotting.images import MOST_CLASSES, confusion
from engine.report import pictures, tables
from engine.report.network_result import NetworkResult
from engine.report.parts import Part, Section, Tile, embedded, embedded_pixels
from engine.run.console import percent

TEMPLATE = Path(__file__).with_name("page.html")


def page(networks: Sequence[NetworkResult], parts: Sequence[Part] = ()) -> str:
    """The page of one network, or of several followed by their ensemble; with further parts."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
    first = networks[0]
    return template.render(
        title=first.name if len(networks) == 1 else f"{len(networks) - 1} networks and their ensemble",
        facts=f"{len(first.labels):,} test images, {len(first.classes)} classes; torch {versions()['torch']}",
        sections=list(sections(networks, parts)),
    )


def sections(networks: Sequence[NetworkResult], parts: Sequence[Part]) -> Iterator[Section]:
    """The sections of the page, from top to bottom."""
    if len(networks) > 1:
        note = f"difference and agreement: compared with {networks[0].name}; p: McNemar's test of equal accuracy"
        yield Section("Networks", note, tables.network_rows(networks))
    else:
        yield Section("Figures", rows=figure_rows(networks[0]))
    for part in parts:
        yield from part.sections
    note = "accuracy against confidence; on the dashed line a network is perfectly calibrated"
    yield Section("Reliability diagram", note, picture=embedded(pictures.reliability(networks)))
    for network in networks:
        of = f": {network.name}" if len(networks) > 1 else ""
        yield Section(f"Classes{of}", rows=tables.class_rows(network))
        yield Section(f"Confusion{of}", "the most frequent confusions", confused_rows(network))
        if len(network.classes) <= MOST_CLASSES:
            note = "rows: true class, columns: predicted class; the darker, the larger the fraction of the row"
            picture = embedded_pixels(confusion(network.confusion, network.classes).transpose(2, 0, 1))
            yield Section(f"Confusion matrix{of}", note, picture=picture)
        if errors := pictures.most_confident_errors(network):
            note = "true class, predicted class and confidence"
            yield Section(f"Most confident errors{of}", note, tiles=[tile_of(error) for error in errors])


def tile_of(error: pictures.Misclassified) -> Tile:
    """The tile of a misclassified image."""
    return Tile(embedded_pixels(error.pixels), (error.label, error.predicted, percent(error.confidence)))


def figure_rows(network: NetworkResult) -> list[Sequence[str]]:
    """The metrics of a network, and those with temperature scaling."""
    figures, calibrated = network.figures, network.figures["calibrated"]
    rows: list[Sequence[str]] = [
        ("", "as trained"),
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
    others = [titles, *unchanged, *changed, "", "", ""]
    return [(*row, other) for row, other in zip(rows, others, strict=True)]


def confused_rows(network: NetworkResult) -> list[Sequence[str]]:
    """Table of the most frequent confusions."""
    pairs = network.figures["most_confused"]
    return [
        ("class", "predicted", "images"),
        *((one["class"], one["predicted"], f"{one['images']:,}") for one in pairs),
    ]
