"""The metrics of networks as text for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from engine.plotting.tables import aligned
from engine.report.network_result import NetworkResult, comparison
from engine.run.console import percent

MOST_CLASSES = 20  # of more classes, those with the lowest F1 are listed

MISSING = "-"


def share(value: float | None) -> str:
    """A fraction in percent; a dash for None."""
    return MISSING if value is None else percent(value)


def interval(figures: dict[str, Any]) -> str:
    """The accuracy with its interval."""
    low, high = (f"{100 * end:.2f}" for end in figures["accuracy_interval"])
    return f"{percent(figures['accuracy'])} ({low} to {high})"


def one(network: NetworkResult) -> Iterator[str]:
    """The terminal output for one network."""
    figures = network.figures
    yield f"{network.name}: {shown(network)}, {figures['images_per_second']:,.0f} a second"
    yield f"accuracy {interval(figures)}, top-5 {percent(figures['top5_accuracy'])}, loss {figures['loss']:.4f}"
    calibration = percent(figures["expected_calibration_error"])
    yield f"Brier score {figures['brier_score']:.4f}, calibration error {calibration}"
    if calibrated := figures["calibrated"]:
        yield (
            f"with temperature {calibrated['temperature']:.2f}, fitted on {calibrated['fitted_on']:,} held-out images: "
            f"loss {calibrated['loss']:.4f}, Brier score {calibrated['brier_score']:.4f}, "
            f"calibration error {percent(calibrated['expected_calibration_error'])}"
        )
    yield ""
    yield from aligned(class_rows(network))
    if figures["most_confused"]:
        pairs = (f"{pair['class']} as {pair['predicted']} {pair['images']}" for pair in figures["most_confused"])
        yield ""
        yield f"confused most: {', '.join(pairs)}"


def shown(network: NetworkResult) -> str:
    """The number of test images and the augmentation, in words."""
    views = "" if network.tta == "none" else f", test-time augmentation {network.tta}"
    return f"{len(network.labels):,} test images{views}"


def class_rows(network: NetworkResult) -> list[Sequence[str]]:
    """Table of all classes, or of the MOST_CLASSES with the lowest F1."""
    classes = network.figures["classes"]
    many = len(classes) > MOST_CLASSES
    names = worst_first(classes)[:MOST_CLASSES] if many else list(classes)
    title = f"the {MOST_CLASSES} classes with the lowest F1" if many else "class"
    rows: list[Sequence[str]] = [(title, "images", "recall", "precision", "F1")]
    for name in names:
        its = classes[name]
        rows.append((name, f"{its['images']:,}", *(share(its[figure]) for figure in ("recall", "precision", "f1"))))
    return rows


def network_rows(networks: Sequence[NetworkResult]) -> list[Sequence[str]]:
    """Table of networks, each compared with the first."""
    title = ("", "accuracy", "top-5", "loss", "calibration error", "difference", "McNemar's p", "agreement")
    rows: list[Sequence[str]] = [title]
    for network in networks:
        figures = network.figures
        row = [network.name, interval(figures), percent(figures["top5_accuracy"]), f"{figures['loss']:.4f}"]
        row.append(percent(figures["expected_calibration_error"]))
        if network is networks[0]:
            row += [""] * 3
        else:
            compared = comparison(networks[0], network)
            row += [
                f"{100 * compared['difference']:+.2f}",
                f"{compared['mcnemar_p']:.2g}",
                percent(compared["agreement"]),
            ]
        rows.append(row)
    return rows


def several(networks: Sequence[NetworkResult]) -> Iterator[str]:
    """The terminal output for several networks."""
    yield f"{shown(networks[-1])}; difference and agreement with {networks[0].name}"
    yield from aligned(network_rows(networks))


def worst_first(classes: dict[str, dict[str, Any]]) -> list[str]:
    """Names of classes that have images, lowest F1 first."""
    return sorted((name for name in classes if classes[name]["images"]), key=lambda name: classes[name]["f1"])
