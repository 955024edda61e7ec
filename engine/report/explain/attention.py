"""Attention weights of a network over channels, kernels and spatial positions.

Channels by class and depth are those of Hu, Shen and Sun, "Squeeze-and-Excitation Networks", arXiv 1709.01507,
fig. 8; kernels those of Li, Wang, Hu and Yang, "Selective Kernel Networks", arXiv 1903.06586, sec. 4.4.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.loader import EvalLoader
from engine.build.from_checkpoint import EvalData, Trained
from engine.plotting import plot
from engine.plotting.tables import aligned
from engine.report.explain.examples import first_of_each, shown_classes
from engine.report.parts import Part, Section, embedded, progress_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Methods that return a module's attention weights (models/attention.py, models/sknet.py).
METHODS = ("gate", "channel_gate", "selection")

LARGEST = 32  # side of a map in the report; larger maps are average-pooled

DECIMALS = 4

COLOURS = "cividis"  # perceptually uniform, also for the colour-blind


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The attention modules by name; not PreResNet's gated shortcuts, which have a layer of that name."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(hasattr(type(module), method) for method in METHODS)
    }


def attention_of(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The weights of an attention module for its input [B, C, H, W], averaged over the other dimensions.

    "channels" float [B, C], "positions" [B, H, W], or [B, 1, 1] if all are equal, "kernels" [B, branches].
    """
    kind = type(module)
    if hasattr(kind, "selection"):
        return {"kernels": module.selection(module.split(x)).mean(2)}
    if hasattr(kind, "channel_gate"):
        channels = module.channel_gate(x)
        return {"channels": channels.flatten(1), "positions": module.spatial_gate(x * channels).flatten(0, 1)}
    gate = module.gate(x)
    return {"channels": gate.mean((2, 3)), "positions": gate.mean(1)}


@dataclass
class RecordedAttention:
    """The weights of one module for the last batch, and the side of its feature maps."""

    values: dict[str, Tensor]
    side: int


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, RecordedAttention]]:
    """Context that records the weights of each attention module for the last batch, by name, in layer order."""
    recorded: dict[str, RecordedAttention] = {}

    def record(name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        recorded[name] = RecordedAttention(attention_of(module, x), output.shape[-1])

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, *inputs, output))
        for name, module in attention_modules(model).items()
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Gate:
    """An attention module: its name, the side of its maps, what it weights ("channels" or "kernels"), and `weights`.

    `weights` [K, n] are means over the images of a class, nan for a class without images.
    """

    name: str
    side: int
    what: str
    weights: np.ndarray

    @property
    def figures(self) -> dict[str, Any]:
        """As plain data: means over all channels, or of the last kernel, since the kernels' weights sum to 1."""
        weights = self.weights if self.what == "channels" else self.weights[:, -1:]
        return {
            "module": self.name,
            "side": self.side,
            "mean": float(np.nanmean(weights)),
            "between_classes": float(np.nanstd(weights, axis=0).mean()),
        }


@torch.no_grad()
def gates_by_class(model: nn.Module, batches: EvalLoader, classes: int) -> list[Gate]:
    """Each attention module with its mean weights over the images of each class, in fp32."""
    sums: dict[tuple[str, int, str], Tensor] = {}
    counts = 0
    with record_attention(model.eval()) as recorded:
        for images, labels in progress_bar(batches, "attention", "batch"):
            model(images)
            counts = counts + labels.bincount(minlength=classes)
            for name, reading in recorded.items():
                (what,) = reading.values.keys() - {"positions"}
                values = reading.values[what]
                total = sums.setdefault((name, reading.side, what), values.new_zeros(classes, values.shape[1]))
                total.index_add_(0, labels, values)
    return [Gate(*its, (total / counts[:, None]).cpu().numpy()) for its, total in sums.items()]


@torch.no_grad()
def position_maps(model: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """Spatial attention weights [B, H, W] by module, of the last module of each stage.

    Modules with uniform spatial weights are left out.
    """
    with record_attention(model.eval()) as recorded:
        model(images)
    maps = {name: reading.values["positions"] for name, reading in recorded.items() if "positions" in reading.values}
    chosen = last_of_each_side({name: recorded[name].side for name, values in maps.items() if is_uneven(values)})
    shown = {name: F.avg_pool2d(maps[name], -(-recorded[name].side // LARGEST)) for name in chosen}
    return {name: rounded(values.cpu().numpy()) for name, values in shown.items()}


def is_uneven(maps: Tensor) -> bool:
    """Whether any of the maps [B, H, W] is not uniform."""
    return bool((maps.amax((1, 2)) > maps.amin((1, 2))).any())


def last_of_each_side(sides: Mapping[str, int]) -> list[str]:
    """The last module of each stage, given the side of each module's maps; after it the side changes."""
    return [name for name, after in pairwise([*sides, None]) if sides[name] != sides.get(after)]


def attention_weights(trained: Trained, images: EvalData) -> Part:
    """The network's attention over the test images; without sections if it has none."""
    if not attention_modules(trained.model):
        return Part("attention", {}, [], [])
    test, names = images.test.images, trained.classes
    gates = gates_by_class(trained.model, images.test, len(names))
    labels = test.labels.cpu().numpy()
    numbers = shown_classes(labels, len(names))
    examples = first_of_each(labels, numbers, 1)
    last = last_of_each_side({gate.name: gate.side for gate in gates if gate.what == "channels"})
    shown = Shown(
        classes=[names[number] for number in numbers],
        channels={gate.name: rounded(gate.weights[numbers]) for gate in gates if gate.name in last},
        kernels={gate.name: rounded(gate.weights[numbers]) for gate in gates if gate.what == "kernels"},
        sides=kernel_sides(trained.model),
        examples=examples,
        positions=position_maps(trained.model, trained.normalize(test.images[examples])),
    )
    return Part(
        "attention",
        {"modules": [gate.figures for gate in gates], **shown.content},
        list(aligned(gate_rows(gates, shown))),
        list(sections(gates, shown, test.images[examples].cpu().numpy())),
    )


def rounded(values: np.ndarray) -> np.ndarray:
    """Values rounded to DECIMALS, float64."""
    return values.astype(float).round(DECIMALS)


def kernel_sides(model: nn.Module) -> list[int]:
    """Receptive field of each selectable kernel in pixels a side, dilation included."""
    for module in model.modules():
        if hasattr(type(module), "selection"):
            firsts = [
                next(part for part in branch.modules() if isinstance(part, nn.Conv2d)) for branch in module.branches
            ]
            return [(first.kernel_size[0] - 1) * first.dilation[0] + 1 for first in firsts]
    return []


@dataclass(frozen=True)
class Shown:
    """Data of the figures, by module: weights of channels [K, C] and kernels [K, n] for K classes, positions [B, H, W].

    `sides` are the kernel sizes in pixels, `examples` the indices of the test images of `positions`.
    """

    classes: Sequence[str]
    channels: Mapping[str, np.ndarray]
    kernels: Mapping[str, np.ndarray]
    sides: Sequence[int]
    examples: Sequence[int]
    positions: Mapping[str, np.ndarray]

    @property
    def content(self) -> dict[str, Any]:
        """As plain data."""
        by_class = {
            what: {name: dict(zip(self.classes, values.tolist(), strict=True)) for name, values in weights.items()}
            for what, weights in (("channels", self.channels), ("kernels", self.kernels))
        }
        maps = {name: values.tolist() for name, values in self.positions.items()}
        return {
            **by_class,
            "kernel_sides": list(self.sides),
            "positions": {"images": list(self.examples), "maps": maps},
        }


def gate_rows(gates: Sequence[Gate], shown: Shown) -> list[Sequence[str]]:
    """Table of the modules that are shown, in layer order."""
    rows: list[Sequence[str]] = [("attention", "maps", "weights", "mean weight", "between classes")]
    for gate in gates:
        if gate.name in shown.channels or gate.name in shown.kernels:
            weighs = f"{gate.weights.shape[1]:,} {gate.what}"
            mean, between = gate.figures["mean"], gate.figures["between_classes"]
            rows.append((gate.name, f"{gate.side} x {gate.side}", weighs, f"{mean:.3f}", f"{between:.4f}"))
    return rows


def sections(gates: Sequence[Gate], shown: Shown, images: np.ndarray) -> Iterator[Section]:
    """Sections of the page, each with a note on how to read it."""
    note = (
        f"How much the weights of {len(gates)} modules depend on the class: the standard deviation of the class means, "
        "averaged over the channels (for kernels, of the last kernel). Near 0 all classes have the same weights. "
        "The table lists the modules of the figures below, in layer order."
    )
    classes = len(gates[0].weights)
    some = f" Of {classes} classes {len(shown.classes)} are shown." if classes > len(shown.classes) else ""
    yield Section("Attention by depth", note, gate_rows(gates, shown), embedded(depth_picture(gates)))
    if shown.channels:
        note = (
            "The mean weight of each channel over the test images of a class, in the last module of each stage. Each "
            "column is a channel, sorted by mean weight. If all rows are equal, the weights do not depend on the "
            "class; if a column changes from row to row, its channel matters for some classes only."
        )
        yield Section("Attention: channels by class", note + some, picture=embedded(channel_picture(shown)))
    if shown.kernels:
        note = (
            f"The weight of the {shown.sides[-1]} x {shown.sides[-1]} kernel against "
            f"{' and '.join(f'{side} x {side}' for side in shown.sides[:-1])}, averaged over the channels, by class "
            "and depth. Each column is a unit, in layer order. Bright: the larger kernel dominates."
        )
        yield Section("Attention: kernels by class", note + some, picture=embedded(kernel_picture(shown)))
    if shown.positions:
        note = (
            "Spatial attention, averaged over the channels, for the first test image of each class, in the last "
            "module of each stage. All images of a row share one colour scale."
        )
        yield Section("Attention: positions", note, picture=embedded(position_picture(shown, images)))


def depth_picture(gates: Sequence[Gate]) -> "Figure":
    """Standard deviation between classes by module, one colour for each map size."""
    canvas, (axes,) = plot.figure(width=7, height=2.6)
    for side, colour in zip(dict.fromkeys(gate.side for gate in gates), cycle(plot.COLOURS)):
        points = [
            (number, gate.figures["between_classes"]) for number, gate in enumerate(gates, 1) if gate.side == side
        ]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=f"{side} x {side}")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("module, in layer order", color=plot.INK)
    axes.set_ylabel("between classes", color=plot.INK)
    axes.legend(title="maps", frameon=False, fontsize=8, title_fontsize=8)
    return canvas


def channel_picture(shown: Shown) -> "Figure":
    """Heat map of classes by channels for each module."""
    height = 0.55 + 0.2 * len(shown.classes)
    canvas, panels = plot.figure(width=9.5, height=height * len(shown.channels), rows=len(shown.channels))
    for axes, (name, weights) in zip(panels, shown.channels.items(), strict=True):
        in_order = weights[:, np.argsort(weights.mean(0), kind="stable")]
        heat_map(axes, in_order, shown.classes)
        axes.set_xticks([])
        axes.set_title(f"{name}: {weights.shape[1]} channels", fontsize=9, color=plot.INK, loc="left")
    return canvas


def kernel_picture(shown: Shown) -> "Figure":
    """Heat map of classes by units: the weight of the last kernel."""
    weights = np.stack([values[:, -1] for values in shown.kernels.values()], axis=1)
    canvas, (axes,) = plot.figure(width=9.5, height=1 + 0.24 * len(shown.classes))
    heat_map(axes, weights, shown.classes)
    units = weights.shape[1]
    axes.set_xticks((np.arange(units) + 0.5) / units, range(1, units + 1))
    axes.set_xlabel("unit, in layer order", color=plot.INK)
    return canvas


def heat_map(axes: "Axes", values: np.ndarray, names: Sequence[str]) -> None:
    """Draw values [rows, columns] with their own colour scale and a name for each row."""
    rows = len(names)
    axes.grid(visible=False)
    image = axes.imshow(values, cmap=COLOURS, aspect="auto", extent=(0, 1, rows, 0), interpolation="nearest")
    axes.set_yticks(np.arange(rows) + 0.5, names, fontsize=8, parse_math=False)
    axes.figure.colorbar(image, ax=axes, pad=0.01).ax.tick_params(labelsize=8)


def position_picture(shown: Shown, images: np.ndarray) -> "Figure":
    """A row of images uint8 [B, C, H, W], and below it a row of maps for each module."""
    count = len(images)
    canvas, panels = plot.figure(
        width=0.95 * count + 0.9, height=1.05 * (1 + len(shown.positions)), rows=1 + len(shown.positions), columns=count
    )
    whole = (0, 1, 0, 1)
    for axes in panels:
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[])
    for axes, image, name in zip(panels[:count], images, shown.classes, strict=True):
        axes.imshow(image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255, extent=whole)
        axes.set_title(name, fontsize=8, color=plot.INK, parse_math=False)
    for row, maps in enumerate(shown.positions.values(), 1):
        of_row = panels[row * count : (row + 1) * count]
        for axes, values in zip(of_row, maps, strict=True):
            shades = axes.imshow(values, cmap=COLOURS, vmin=maps.min(), vmax=maps.max(), extent=whole)
        of_row[0].set_ylabel(f"{maps.shape[1]} x {maps.shape[2]}", fontsize=8, color=plot.INK)
        canvas.colorbar(shades, ax=of_row, pad=0.01).ax.tick_params(labelsize=8)
    return canvas
