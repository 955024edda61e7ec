"""Robustness: accuracy on corrupted, translated and rotated images, and on CIFAR-10.1."""

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

SHOWN, SHOWN_AT = 4, (1, 3, 5)  # images and severities on the contact sheet of corruptions

COMPUTED = (
    "computed here by the definitions of CIFAR-10-C, but frost is synthetic, and motion blur (also in snow) is not "
    "ImageMagick's: not comparable with results on the published files"
)

MOVED = "padded by reflection; rotations with bilinear interpolation"

SHEET = f"the original, and below it severities {', '.join(map(str, SHOWN_AT[:-1]))} and {SHOWN_AT[-1]}"

# (corruption, severity, indices int64 [n]) -> corrupted images uint8 [n, C, H, W].
Source = Callable[[str, int, Tensor], Tensor]


@dataclass(frozen=True)
class NetworkRobustness:
    """Accuracies of a network: clean, by corruption and severity [15, 5], and by translation and rotation.

    `cifar10_1` are the accuracy on CIFAR-10.1 and its number of images, if available.
    """

    name: str
    images: int
    clean: float
    corrupted: np.ndarray
    translated: Sequence[float]
    rotated: Sequence[float]
    cifar10_1: tuple[float, int] | None

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
        """`mean_error` minus the error on clean images."""
        return self.mean_error - (1 - self.clean)


def corruption_errors(
    network: NetworkRobustness, baseline: NetworkRobustness, *, relative: bool = False
) -> list[float | None]:
    """CE of each corruption: the errors at all severities over those of the baseline (Hendrycks 2019, sec. 4).

    If `relative`, of the errors minus the clean error. None if the baseline's is not above 0.
    """
    ours, theirs = (one.errors - (1 - one.clean) * relative for one in (network, baseline))
    return [float(our / their) if their > 0 else None for our, their in zip(ours, theirs, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if any value is None."""
    return None if None in values else sum(values) / len(values)


def robustness(networks: Mapping[str, Trained], images: EvalData, *, root: str | None, limit: int | None) -> Part:
    """Robustness of networks by name, on the same test images; the first is the baseline of the others.

    `root` is a directory with the published files, to use them instead of computed corruptions; `limit` is the number
    of images, stratified by class, None for all. Raises RunError for invalid files.
    """
    whole = images.test.images.to(torch.device("cpu"))
    with data_explained():
        files = published(root, list(CORRUPTIONS), whole) if root else None
        again = cifar10_1(root) if root and len(next(iter(networks.values())).classes) == 10 else None
    order = stratified_order(whole.labels, torch.Generator().manual_seed(0))

    def source(name: str, severity: int, chosen: Tensor) -> Tensor:
        return files.corrupted(name, severity, chosen) if files else corrupted(whole.images[chosen], name, severity)

    found = measure_robustness(networks, whole, order[:limit].sort().values, source, again, images.test.batch_size)
    few = order[:SHOWN]
    sheet = {
        name: torch.stack([whole.images[few], *(source(name, severity, few) for severity in SHOWN_AT)])
        for name in CORRUPTIONS
    }
    return part(found, root, sheet)


def measure_robustness(
    networks: Mapping[str, Trained],
    whole: Images,
    chosen: Tensor,
    source: Source,
    again: Images | None,
    batch_size: int,
) -> list[NetworkRobustness]:
    """Evaluate all networks on each version of the `chosen` images; one version is in memory at a time."""
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
        on_cifar10_1 = accuracies(again.images, again.labels) if again else ()
    return [
        NetworkRobustness(
            name=name,
            images=len(test),
            clean=clean[number],
            corrupted=by_corruption[:, :, number],
            translated=moved[:, number].tolist(),
            rotated=turned[:, number].tolist(),
            cifar10_1=(on_cifar10_1[number], len(again)) if again else None,
        )
        for number, name in enumerate(networks)
    ]


def accuracy(trained: Trained, images: Images, batch_size: int) -> float:
    """A network's accuracy on images, as a share of 1."""
    trained.precision.set_fp32_products()  # another network may have changed it
    batches = EvalLoader(images.to(trained.normalize.mean.device), batch_size=batch_size, normalize=trained.normalize)
    return evaluate(trained.model, batches, precision=trained.precision, views=trained.views).accuracy


def part(networks: Sequence[NetworkRobustness], root: str | None, sheet: Mapping[str, Tensor]) -> Part:
    """The report's part; `sheet` has the example images of each corruption, uint8 [rows, columns, C, H, W]."""
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
        Section("Translation and rotation", MOVED, picture=embedded(curves(networks))),
        Section("Examples of the corruptions", SHEET, picture=embedded(contact_sheet(sheet))),
    ]
    return Part("robustness", content, [*notes, *aligned(summary), "", *aligned(table)], sections)


def figures(network: NetworkRobustness, baseline: NetworkRobustness | None) -> dict[str, Any]:
    """A network's entry in evaluation.json; accuracies between 0 and 1."""
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
    if network.cifar10_1:
        content["cifar10_1"] = with_interval(*network.cifar10_1)
    return content


def with_interval(accuracy: float, images: int) -> dict[str, Any]:
    """An accuracy with its interval and the number of images."""
    interval = metrics.accuracy_interval(round(accuracy * images), images)
    return {"images": images, "accuracy": accuracy, "accuracy_interval": list(interval)}


def summary_rows(networks: Sequence[NetworkRobustness]) -> list[Sequence[str]]:
    """A row for each network: its loss of accuracy, and compared with the first if there are several."""
    baseline = networks[0]
    errors = ("mCE", "relative mCE") if len(networks) > 1 else ()
    newer = ("CIFAR-10.1",) if baseline.cifar10_1 else ()
    rows: list[Sequence[str]] = [("", "accuracy", *newer, "mean corruption error", "increase", *errors)]
    for network in networks:
        row = [network.name, tables.interval(with_interval(network.clean, network.images))]
        if network.cifar10_1:
            row.append(tables.interval(with_interval(*network.cifar10_1)))
        row += [percent(network.mean_error), f"{100 * network.mean_increase:+.2f}"]
        if errors:
            row += [tables.share(mean(corruption_errors(network, baseline, relative=which))) for which in (False, True)]
        rows.append(row)
    return rows


def severity_rows(network: NetworkRobustness) -> list[Sequence[str]]:
    """The accuracies of one network."""
    rows: list[Sequence[str]] = [("accuracy at severity", *map(str, SEVERITIES), "mean")]
    for name, values in zip(CORRUPTIONS, network.corrupted, strict=True):
        rows.append((name, *map(percent, values), percent(values.mean())))
    return rows


def error_rows(networks: Sequence[NetworkRobustness]) -> list[Sequence[str]]:
    """Accuracies of several networks, averaged over severities, and corruption errors relative to the first."""
    baseline, *others = networks
    rows: list[Sequence[str]] = [
        ("accuracy, mean of severities", baseline.name, *(title for other in others for title in (other.name, "CE")))
    ]
    all_errors = [corruption_errors(other, baseline) for other in others]
    for index, name in enumerate(CORRUPTIONS):
        row = [name, percent(baseline.corrupted[index].mean())]
        for other, errors in zip(others, all_errors, strict=True):
            row += [percent(other.corrupted[index].mean()), tables.share(errors[index])]
        rows.append(row)
    return rows


def heat_map(networks: Sequence[NetworkRobustness]) -> "Figure":
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


def curves(networks: Sequence[NetworkRobustness]) -> "Figure":
    """Accuracy against translation and against rotation."""
    canvas, (left, right) = plot.figure(width=9, height=3.8, columns=2, same_x=False)
    for number, network in enumerate(networks):
        style = {"color": plot.COLOURS[number % len(plot.COLOURS)], "linewidth": 1.5, "marker": ".", "clip_on": False}
        left.plot(PIXELS, network.translated, label=plot.in_legend(network.name), **style)
        right.plot(DEGREES, network.rotated, **style)
    left.set_ylim(0, 1)
    left.set_ylabel("accuracy", color=plot.INK)
    left.set_xlabel("translation to the right, pixels", color=plot.INK)
    right.set_xlabel("rotation counter-clockwise, degrees", color=plot.INK)
    if len(networks) > 1:
        plot.legend(left, fontsize=8)
    return canvas


def contact_sheet(sheet: Mapping[str, Tensor], *, across: int = 5) -> "Figure":
    """A panel for each corruption: images without and below with it; `across` panels in a row."""
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
