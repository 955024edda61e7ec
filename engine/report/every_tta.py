"""One network with each test-time augmentation: what they gain and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.build.from_checkpoint import EvalData, Trained
from engine.evaluation.tta import Views
from engine.plotting.tables import aligned
from engine.report.figures import Examined, comparison, examined
from engine.report.parts import Part, Section
from engine.run.console import percent

PLAIN = "none"  # the option that shows an image as it is


def every_tta(trained: Trained, images: EvalData, every: Mapping[str, Views]) -> Part:
    """A network examined on the test images with each augmentation, by its name."""
    found = augmented(trained, images, every)
    rows, plain = view_rows(found), found[0]
    content = {view.name: view_figures(plain, view) for view in found}
    return Part(
        "every_tta", content, list(aligned(rows)), [Section("Test-time augmentation", f"beside {plain.name}", rows)]
    )


def augmented(trained: Trained, images: EvalData, every: Mapping[str, Views]) -> list[Examined]:
    """The network with each augmentation, whose name it has here; first that without any, then by speed."""
    found = [
        replace(
            examined(replace(trained, views=views, tta=option), images, Path(), option, held_out=False), name=option
        )
        for option, views in every.items()
    ]
    return sorted(found, key=lambda one: (one.name != PLAIN, -one.images_per_second))


def view_figures(plain: Examined, view: Examined) -> dict[str, float]:
    """What an augmentation gains, and its cost."""
    chosen = ("accuracy", "loss", "images_per_second")
    return {figure: view.figures[figure] for figure in chosen} | comparison(plain, view)


def view_rows(found: Sequence[Examined]) -> list[Sequence[str]]:
    """A table of all, each beside the first."""
    first = found[0]
    rows: list[Sequence[str]] = [("tta", "accuracy", "gain", "McNemar's p", "loss", "images a second", "cost")]
    for view in found:
        figures, beside = view.figures, comparison(first, view)
        gain = ("", "") if view is first else (f"{100 * beside['difference']:+.2f}", f"{beside['mcnemar_p']:.2g}")
        speed = (f"{figures['images_per_second']:,.0f}", f"{first.images_per_second / view.images_per_second:.1f}x")
        rows.append((view.name, percent(figures["accuracy"]), *gain, f"{figures['loss']:.4f}", *speed))
    return rows
