"""How networks do on images that are corrupted, moved and turned, and on CIFAR-10.1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from data.corruptions.moved import rotated, translated
from data.corruptions.published import cifar10_1, published
from data.dataset import Images, stratified_order
from data.loader import EvalLoader
from engine.build.from_checkpoint import EvalData, Trained
from engine.build.objects import data_explained
from engine.evaluation import metrics
from engine.evaluation.evaluate import evaluate
from engine.plotting import plot
from engine.plotting.tables import aligned
from engine.report import tables
from engine.report.parts import Part, Section, embedded
from engine.run.console import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PIXELS = tuple(range(-8, 9))

DEGREES = tuple(range(-30, 31, 5))

SHOWN, SHOWN_AT = 4, (1, 3, 5)  # photographs on the sheet of corruptions, and at which severities

COMPUTED = (
    "computed here by the definitions of CIFAR-10-C, but frost is drawn in place of photographs, and motion blur (in "
    "snow, too) is not ImageMagick's: not to be compared with figures on the published files"
)

MOVED = "what comes in at the border is the image's mirror image; by linear interpolation where it is turned"

SHEET = f"as they are, and below that at severities {', '.join(map(str, SHOWN_AT[:-1]))} and {SHOWN_AT[-1]}"

# The images at some places (int64 [n]) with a corruption, by its name and severity: uint8 [n, C, H, W].
Source = Callable[[str, int, Tensor], Tensor]


@dataclass(frozen=True)
class Robust:
    """A network's accuracies, as shares of 1: on images as they are, by corruption and severity [15, 5], moved, turned.

    `again` is that on CIFAR-10.1, and how many images it has, if that is there.
    """

    name: str
    images: int
    clean: float
    corrupted: np.ndarray
    translated: Sequence[float]
    rotated: Sequence[float]
    again: tuple[float, int] | None

    @property
    def errors(self) -> np.ndarray:
        """Mean errors over the severities, by corruption [15]."""
        return 1 - self.corrupted.mean(1)

    @property
    def mean_error(self) -> float:
        """The mean over corruptions and severities, the unnormalised mCE (Hendrycks et al. 2020, AugMix, sec. 4.1)."""
        return float(self.errors.mean())

    @property
    def mean_increase(self) -> float:
        """By how much that is above the error on the images as they are."""
        return self.mean_error - (1 - self.clean)


def corruption_errors(network: Robust, baseline: Robust, *, relative: bool = False) -> list[float | None]:
    """CE of each corruption: the errors at all severities over those of the baseline (Hendrycks 2019, sec. 4).

    The `relative` one is of the errors beyond those on the images as they are. None where the baseline has none.
    """
    ours, theirs = (one.errors - (1 - one.clean) * relative for one in (network, baseline))
    return [float(our / their) if their > 0 else None for our, their in zip(ours, theirs, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, which cannot be had where one of the values cannot."""
    return None if None in values else sum(values) / len(values)


def robustness(networks: Mapping[str, Trained], images: EvalData, *, root: str | None, limit: int | None) -> Part:
    """Networks by name on the same test images, corrupted, moved and turned; the first is the baseline of the others.

    `root` is a directory with the published files, in place of corruptions that are computed; `limit` how many images
    are taken, evenly of all classes, None all. Raises RunError for files that are not as they should be.
    """
    whole = images.test.images.to(torch.device("cpu"))
    with data_explained():
        files = published(root, list(CORRUPTIONS), whole) if root else None
        again = cifar10_1(root) if root and len(next(iter(networks.values())).classes) == 10 else None
    order = stratified_order(whole.labels, torch.Generator().manual_seed(0))

    def source(name: str, severity: int, chosen: Tensor) -> Tensor:
        return files.corrupted(name, severity, chosen) if files else corrupted(whole.images[chosen], name, severity)

    found = answered(networks, whole, order[:limit].sort().values, source, again, images.test.batch_size)
    few = order[:SHOWN]
    sheet = {
        name: torch.stack([whole.images[few], *(source(name, severity, few) for severity in SHOWN_AT)])
        for name in CORRUPTIONS
    }
    return part(found, root, sheet)


def answered(
    networks: Mapping[str, Trained],
    whole: Images,
    chosen: Tensor,
    source: Source,
    again: Images | None,
    batch_size: int,
) -> list[Robust]:
    """Let all networks answer to each version of the `chosen` images, one version after the other in memory."""
    test = whole.subset(chosen)
    passes = 1 + len(CORRUPTIONS) * len(SEVERITIES) + len(PIXELS) + len(DEGREES) + (again is not None)
    with tqdm(desc="robustness", total=passes, unit="version", leave=False, disable=None) as bar:

        def accuracies(pixels: Tensor, labels: Tensor = test.labels) -> list[float]:
            bar.update()
            return [accuracy(trained, Images(pixels, labels), batch_size) for trained in networks.values()]

        clean = accuracies(test.images)
        by_corruption = np.array(
            [[accuracies(source(name, severity, chosen)) for severity in SEVERITIES] for name in CORRUPTIONS]
        )
        moved = np.array([accuracies(translated(test.images, pixels)) for pixels in PIXELS])
        turned = np.array([accuracies(rotated(test.images, degrees)) for degrees in DEGREES])
        anew = accuracies(again.images, again.labels) if again else ()
    return [
        Robust(
            name=name,
            images=len(test),
            clean=clean[number],
            corrupted=by_corruption[:, :, number],
            translated=moved[:, number].tolist(),
            rotated=turned[:, number].tolist(),
            again=(anew[number], len(again)) if again else None,
        )
        for number, name in enumerate(networks)
    ]


def accuracy(trained: Trained, images: Images, batch_size: int) -> float:
    """A network's accuracy on images, as a share of 1."""
    trained.precision.set_fp32_products()  # which those of another network may have changed
    batches = EvalLoader(images.to(trained.normalize.mean.device), batch_size=batch_size, normalize=trained.normalize)
    return evaluate(trained.model, batches, precision=trained.precision, views=trained.views).accuracy


def part(networks: Sequence[Robust], root: str | None, sheet: Mapping[str, Tensor]) -> Part:
    """What a report says of it; `sheet` has the pictures of each corruption, uint8 [rows, columns, C, H, W]."""
    baseline, count = networks[0], networks[0].images
    several = len(networks) > 1
    made = f"the files in {root}" if root else COMPUTED
    notes = [f"robustness on {count:,} test images", f"corruptions: {made}"]
    if several:
        notes.append(f"mCE: errors over those of {baseline.name}, whose own is 100 %")
    content = {
        "images": count,
        "corruptions": root or "computed",
        "baseline": baseline.name if several else None,
        "networks": {network.name: figures(network, baseline if several else None) for network in networks},
    }
    summary = summary_rows(networks)
    table = error_rows(networks) if several else severity_rows(baseline)
    sections = [
        Section("Robustness", "; ".join(notes), summary),
        Section("Accuracy by corruption and severity", rows=table, picture=embedded(heat_map(networks))),
        Section("Moved and turned", MOVED, picture=embedded(curves(networks))),
        Section("What the corruptions are", SHEET, picture=embedded(contact_sheet(sheet))),
    ]
    return Part("robustness", content, [*notes, *aligned(summary), "", *aligned(table)], sections)


def figures(network: Robust, baseline: Robust | None) -> dict[str, Any]:
    """What evaluation.json holds of a network; shares of 1."""
    content = {
        "accuracy": network.clean,
        "accuracy_by_severity": dict(zip(CORRUPTIONS, network.corrupted.tolist(), strict=True)),
        "mean_corruption_error": network.mean_error,
        "mean_increase": network.mean_increase,
        "translation_accuracy": dict(zip(map(str, PIXELS), network.translated, strict=True)),
        "rotation_accuracy": dict(zip(map(str, DEGREES), network.rotated, strict=True)),
    }
    if baseline:
        errors, relative = (corruption_errors(network, baseline, relative=which) for which in (False, True))
        content |= {"corruption_errors": dict(zip(CORRUPTIONS, errors, strict=True)), "mce": mean(errors)}
        content |= {"relative_mce": mean(relative)}
    if network.again:
        content["cifar10_1"] = with_interval(*network.again)
    return content


def with_interval(accuracy: float, images: int) -> dict[str, Any]:
    """An accuracy with its interval and the number of images."""
    interval = metrics.accuracy_interval(round(accuracy * images), images)
    return {"images": images, "accuracy": accuracy, "accuracy_interval": list(interval)}


def summary_rows(networks: Sequence[Robust]) -> list[Sequence[str]]:
    """A row for each network: what it loses, and beside the first, if there are several."""
    baseline = networks[0]
    beside = ("mCE", "relative mCE") if len(networks) > 1 else ()
    anew = ("CIFAR-10.1",) if baseline.again else ()
    rows: list[Sequence[str]] = [("", "accuracy", *anew, "mean corruption error", "increase", *beside)]
    for network in networks:
        row = [network.name, tables.interval(with_interval(network.clean, network.images))]
        if network.again:
            row.append(tables.interval(with_interval(*network.again)))
        row += [percent(network.mean_error), f"{100 * network.mean_increase:+.2f}"]
        if beside:
            row += [tables.share(mean(corruption_errors(network, baseline, relative=which))) for which in (False, True)]
        rows.append(row)
    return rows


def severity_rows(network: Robust) -> list[Sequence[str]]:
    """The accuracies of one network."""
    rows: list[Sequence[str]] = [("accuracy at severity", *map(str, SEVERITIES), "mean")]
    for name, values in zip(CORRUPTIONS, network.corrupted, strict=True):
        rows.append((name, *map(percent, values), percent(values.mean())))
    return rows


def error_rows(networks: Sequence[Robust]) -> list[Sequence[str]]:
    """The accuracies of several, in the mean over severities, and their corruption errors beside the first."""
    baseline, *others = networks
    rows: list[Sequence[str]] = [
        ("accuracy, mean of severities", baseline.name, *(title for other in others for title in (other.name, "CE")))
    ]
    beside = [corruption_errors(other, baseline) for other in others]
    for place, name in enumerate(CORRUPTIONS):
        row = [name, percent(baseline.corrupted[place].mean())]
        for other, errors in zip(others, beside, strict=True):
            row += [percent(other.corrupted[place].mean()), tables.share(errors[place])]
        rows.append(row)
    return rows


def heat_map(networks: Sequence[Robust]) -> "Figure":
    """Accuracies in percent by corruption and severity, a panel for each network."""
    columns = min(len(networks), 4)
    rows = -(-len(networks) // columns)
    canvas, panels = plot.figure(width=1.8 + 2.4 * columns, height=0.6 + 4.2 * rows, rows=rows, columns=columns)
    for axes, network in zip(panels, networks, strict=False):
        axes.imshow(network.corrupted, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        if len(networks) > 1:
            axes.set_title(plot.folded(network.name, 28), fontsize=9, color=plot.INK, parse_math=False)
        axes.set_xticks(range(len(SEVERITIES)), SEVERITIES)
        axes.set_yticks(range(len(CORRUPTIONS)), [name.replace("_", " ") for name in CORRUPTIONS])
        axes.set_xlabel("severity", color=plot.INK)
        for (row, column), value in np.ndenumerate(network.corrupted):
            colour = "white" if value > 0.5 else plot.INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    for axes in panels:
        axes.grid(visible=False)
    for axes in panels[len(networks) :]:
        axes.set_visible(False)
    return canvas


def curves(networks: Sequence[Robust]) -> "Figure":
    """Accuracy against translation and against rotation."""
    canvas, (left, right) = plot.figure(width=9, height=3.8, columns=2, same_x=False)
    for number, network in enumerate(networks):
        style = {"color": plot.COLOURS[number % len(plot.COLOURS)], "linewidth": 1.5, "marker": ".", "clip_on": False}
        left.plot(PIXELS, network.translated, label=plot.in_legend(network.name), **style)
        right.plot(DEGREES, network.rotated, **style)
    left.set_ylim(0, 1)
    left.set_ylabel("accuracy", color=plot.INK)
    left.set_xlabel("moved to the right, pixels", color=plot.INK)
    right.set_xlabel("turned counter-clockwise, degrees", color=plot.INK)
    if len(networks) > 1:
        plot.legend(left, fontsize=8)
    return canvas


def contact_sheet(sheet: Mapping[str, Tensor], *, across: int = 5) -> "Figure":
    """A panel for each corruption: photographs as they are, and below them with it; panels in rows of `across`."""
    panels = [images.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).numpy() for images in sheet.values()]
    height, width, channels = panels[0].shape
    gap = height // 6
    rows = -(-len(panels) // across)
    pixels = np.full((rows * (height + gap), across * (width + gap) - gap, channels), 255, np.uint8)
    canvas, (axes,) = plot.figure(width=10, height=10 * len(pixels) / pixels.shape[1])
    for number, (name, panel) in enumerate(zip(sheet, panels, strict=True)):
        top, left = number // across * (height + gap) + gap, number % across * (width + gap)
        pixels[top : top + height, left : left + width] = panel
        axes.text(left, top - gap / 4, name.replace("_", " "), fontsize=9, color=plot.INK)
    axes.imshow(pixels if channels == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return canvas
