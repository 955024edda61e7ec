"""One network with each test-time augmentation: gain and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.build.from_checkpoint import EvalData, Trained
from engine.evaluation.tta import Views
from engine.plotting.tables import aligned
from engine.report.network_result import NetworkResult, comparison, network_result
from engine.report.parts import Part, Section
from engine.run.console import percent

PLAIN = "none"  # the option without augmentation


def every_tta(trained: Trained, images: EvalData, every: Mapping[str, Views]) -> Part:
    """A network's results on the test images with each augmentation, by name."""
    found = augmented(trained, images, every)
    rows, plain = view_rows(found), found[0]
    content = {view.name: view_figures(plain, view) for view in found}
    return Part(
        "every_tta",
        content,
        list(aligned(rows)),
        [Section("Test-time augmentation", f"compared with {plain.name}", rows)],
    )


def augmented(trained: Trained, images: EvalData, every: Mapping[str, Views]) -> list[NetworkResult]:
    """The network's result with each augmentation, named by it; first without any, then by speed."""
    found = [
        replace(
            network_result(replace(trained, views=views, tta=option), images, Path(), option, held_out=False),
            name=option,
        )
        for option, views in every.items()
    ]
    return sorted(found, key=lambda one: (one.name != PLAIN, -one.images_per_second))


def view_figures(plain: NetworkResult, view: NetworkResult) -> dict[str, float]:
    """Gain and cost of an augmentation."""
    chosen = ("accuracy", "loss", "images_per_second")
    return {figure: view.figures[figure] for figure in chosen} | comparison(plain, view)


def view_rows(found: Sequence[NetworkResult]) -> list[Sequence[str]]:
    """Table of all augmentations, compared with the first."""
    first = found[0]
    rows: list[Sequence[str]] = [("tta", "accuracy", "gain", "McNemar's p", "loss", "images a second", "cost")]
    for view in found:
        figures, compared = view.figures, comparison(first, view)
        gain = ("", "") if view is first else (f"{100 * compared['difference']:+.2f}", f"{compared['mcnemar_p']:.2g}")
        speed = (f"{figures['images_per_second']:,.0f}", f"{first.images_per_second / view.images_per_second:.1f}x")
        rows.append((view.name, percent(figures["accuracy"]), *gain, f"{figures['loss']:.4f}", *speed))
    return rows
