"""The filters of a network's first layer, as images."""

import numpy as np
from torch import nn

from engine.build.from_checkpoint import Trained
from engine.report.parts import Part, Section, embedded_pixels

MOST = 96  # filters that are shown

SIDE = 44  # least pixels of a filter's side in the figure

IN_A_ROW = 16

GAP = 4

DECIMALS = 4


def first_filters(trained: Trained) -> Part:
    """The filters of the first convolution, in the channels of the image."""
    name, layer = first_convolution(trained.model, trained.image_shape[0])
    if layer is None:
        return Part("filters", {}, [], [])
    weights = layer.weight.detach().cpu().numpy()[:MOST].astype(float).round(DECIMALS)
    of_all = f"the first {len(weights)} of {layer.out_channels}" if len(weights) < layer.out_channels else "all"
    size = " x ".join(map(str, weights.shape[2:]))
    note = (
        f"The filters of the first layer ({name}, {size}, {of_all}): grey is 0, lighter is positive, darker is "
        "negative. Each filter is scaled by its largest absolute weight."
    )
    return Part(
        "filters",
        {"layer": name, "weights": weights.tolist()},
        [f"filters of the first layer, {name}: {of_all} in report.html"],
        [Section("First filters", note, picture=embedded_pixels(mosaic(weights)))],
    )


def first_convolution(model: nn.Module, channels: int) -> tuple[str, nn.Conv2d | None]:
    """(name, module) of the first convolution whose input has the image's channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            return name, module
    return "", None


def mosaic(weights: np.ndarray) -> np.ndarray:
    """Filters float [N, C, h, w] in rows, as uint8 [C, H, W]: 128 is 0, 1 and 255 are each one's largest weight."""
    largest = np.abs(weights).max((1, 2, 3), keepdims=True)
    values = 128 + 127 * weights / np.where(largest > 0, largest, 1)
    times = -(-SIDE // max(weights.shape[2:]))
    values = values.round().astype(np.uint8).repeat(times, 2).repeat(times, 3)
    missing = -len(values) % min(len(values), IN_A_ROW)
    values = np.pad(values, ((0, missing), (0, 0), (0, GAP), (0, GAP)), constant_values=255)
    rows = [np.concatenate(list(row), axis=2) for row in np.split(values, range(IN_A_ROW, len(values), IN_A_ROW))]
    return np.concatenate(rows, axis=1)
