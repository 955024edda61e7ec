"""MobileNet v1, v2 and v3: depthwise separable convolutions.

v1  Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", 2017, arXiv 1704.04861, table 1.
v2  Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks", CVPR 2018, arXiv 1801.04381, table 2.
v3  Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv 1905.02244, tables 1 and 2.

A depthwise separable k x k convolution with N output channels needs only the fraction 1/N + 1/k^2 of
the multiply-adds of a standard convolution (v1, sec. 3.1). For 32x32 images the stem has stride 1 in
place of 2; in v2 the second stage has stride 1 as well. The last feature maps are 2x2 in v1 and v3, and
4x4 in v2. `width` is the width multiplier.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from models.layers import DropPath, Head, depthwise_conv, initialize_he, require_size


def unit(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    activation: Callable[[], nn.Module],
    *,
    depthwise: bool = False,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution, BN, activation. [B, C, H, W] -> [B, out_channels, H/s, W/s].

    With `depthwise`, `out_channels` must equal `in_channels`.
    """
    padding = kernel // 2
    if depthwise:
        convolution = depthwise_conv(in_channels, kernel, stride, padding)
    else:
        convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, norm(out_channels), activation())


def to_multiple_of_8(channels: float) -> int:
    """Round to the nearest multiple of 8, at least 8; if that is more than 10 % less, add 8 (the authors' code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class MobileNetV1(nn.Module):
    """MobileNet v1 for small images.

    The stem is followed by 13 pairs of a 3x3 depthwise and a 1x1 convolution; BN and ReLU follow each convolution.

    | layer                                              | output for a 32x32 image |
    | -------------------------------------------------- | ------------------------ |
    | stem: 3x3                                          | [B, 32, 32, 32]          |
    | stages: channels 64, 128, 256, 512, 1024           | [B, 1024, 2, 2]          |
    | head                                               | [B, K]                   |

    In the paper's table the last depthwise convolution, of 1024 channels, has stride 2; this is a misprint,
    since its input and output are both 7x7. `dropout` is applied before the last layer; the paper uses no dropout.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: float, dropout: float = 0.0):
        super().__init__()
        channels = max(int(32 * width), 1)
        self.stem = unit(in_channels, channels, 3, 1, nn.ReLU)
        self.stages = nn.Sequential()
        for base, depth in ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2)):
            stage, out_channels = nn.Sequential(), max(int(base * width), 1)
            for position in range(depth):
                stride = 2 if position == 0 and base > 64 else 1
                stage.append(unit(channels, channels, 3, stride, nn.ReLU, depthwise=True))
                stage.append(unit(channels, out_channels, 1, 1, nn.ReLU))
                channels = out_channels
            self.stages.append(stage)
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a weight between 0 and 1 (v3, sec. 5.3). [B, C, H, W] -> [B, C, H, W].

    The weights come from global average pooling, a 1x1 convolution to C/4 channels (rounded to a multiple of
    8), ReLU, a 1x1 convolution to C channels and hard sigmoid.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = to_multiple_of_8(channels // 4)
        self.excitation = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), nn.Hardsigmoid()
        )

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, between 0 and 1. [B, C, H, W] -> [B, C, 1, 1]."""
        return self.excitation(x.mean((2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, optional squeeze and excitation, 1x1 without activation; plus input if shapes match.

    [B, C, H, W] -> [B, out_channels, H/s, W/s]. `expanded` is the number of channels after the first 1x1
    convolution, which is left out if it equals `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: int,
        stride: int,
        activation: Callable[[], nn.Module],
        *,
        excitation: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.adds_input = stride == 1 and in_channels == out_channels
        self.residual = nn.Sequential()
        if expanded != in_channels:
            self.residual.append(unit(in_channels, expanded, 1, 1, activation, norm=norm))
        self.residual.append(unit(expanded, expanded, kernel, stride, activation, depthwise=True, norm=norm))
        if excitation:
            self.residual.append(SqueezeExcitation(expanded))
        self.residual.extend([nn.Conv2d(expanded, out_channels, 1, bias=False), norm(out_channels)])
        if self.adds_input and drop_path:
            self.residual.append(DropPath(drop_path))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.adds_input else self.residual(x)


# One row per stage: expansion, output channels, number of blocks, stride of the first block (1 in the others).
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNet v2 for small images.

    | layer                                                 | output for a 32x32 image |
    | ----------------------------------------------------- | ------------------------ |
    | stem: 3x3                                             | [B, 32, 32, 32]          |
    | stages: channels 16, 24, 32, 64, 96, 160, 320         | [B, 320, 4, 4]           |
    | closing: the last 1x1                                 | [B, 1280, 4, 4]          |
    | head                                                  | [B, K]                   |

    `dropout` is applied before the last layer; the authors' code uses 0.2.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        channels = to_multiple_of_8(32 * width)
        self.stem = unit(in_channels, channels, 3, 1, nn.ReLU6)
        self.stages = nn.Sequential()
        total, number = sum(depth for _, _, depth, _ in V2_STAGES), 0
        for expansion, base, depth, first_stride in V2_STAGES:
            stage, out_channels = nn.Sequential(), to_multiple_of_8(base * width)
            for position in range(depth):
                number += 1
                stride = first_stride if position == 0 else 1
                rate = drop_path * (number / total)  # increases linearly with depth
                stage.append(
                    InvertedResidual(channels, expansion * channels, out_channels, 3, stride, nn.ReLU6, drop_path=rate)
                )
                channels = out_channels
            self.stages.append(stage)
        closing_width = to_multiple_of_8(1280 * max(width, 1.0))
        self.closing = unit(channels, closing_width, 1, 1, nn.ReLU6)
        self.head = Head(closing_width, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.closing(self.stages(self.stem(images))))


# One row per block: kernel size, expanded channels, output channels, squeeze and excitation, activation, stride.
V3_ROWS = {
    "large": (
        (3, 16, 16, False, nn.ReLU, 1),
        (3, 64, 24, False, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 1),
        (5, 72, 40, True, nn.ReLU, 2),
        (5, 120, 40, True, nn.ReLU, 1),
        (5, 120, 40, True, nn.ReLU, 1),
        (3, 240, 80, False, nn.Hardswish, 2),
        (3, 200, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 480, 112, True, nn.Hardswish, 1),
        (3, 672, 112, True, nn.Hardswish, 1),
        (5, 672, 160, True, nn.Hardswish, 2),
        (5, 960, 160, True, nn.Hardswish, 1),
        (5, 960, 160, True, nn.Hardswish, 1),
    ),
    "small": (
        (3, 16, 16, True, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 2),
        (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
        (5, 144, 48, True, nn.Hardswish, 1),
        (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1),
        (5, 576, 96, True, nn.Hardswish, 1),
    ),
}
V3_HIDDEN = {"large": 1280, "small": 1024}


class MobileNetV3(nn.Module):
    """MobileNet v3 for small images, `size` "large" (table 1) or "small" (table 2).

    | layer                                | large, 32x32 image | small, 32x32 image |
    | ------------------------------------ | ------------------ | ------------------ |
    | stem: 3x3, hard swish                | [B, 16, 32, 32]    | [B, 16, 32, 32]    |
    | stages: 15 or 11 blocks, one by one  | [B, 160, 2, 2]     | [B, 96, 2, 2]      |
    | closing: the last 1x1, hard swish    | [B, 960, 2, 2]     | [B, 576, 2, 2]     |
    | head: hidden layer, hard swish       | [B, K]             | [B, K]             |

    The hidden layer of the head has 1280 units (large) or 1024 (small).
    `dropout` is applied before the last layer; the authors' code uses 0.2.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        size: Literal["large", "small"],
        width: float,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)  # as in the authors' code
        rows = V3_ROWS[size]
        channels = to_multiple_of_8(16 * width)
        self.stem = unit(in_channels, channels, 3, 1, nn.Hardswish, norm=norm)
        self.stages = nn.Sequential()
        for number, (kernel, expanded, out_channels, excitation, activation, stride) in enumerate(rows, 1):
            out_channels = to_multiple_of_8(out_channels * width)
            self.stages.append(
                InvertedResidual(
                    channels,
                    to_multiple_of_8(expanded * width),
                    out_channels,
                    kernel,
                    stride,
                    activation,
                    excitation=excitation,
                    norm=norm,
                    drop_path=drop_path * (number / len(rows)),
                )
            )
            channels = out_channels
        closing_width = 6 * channels  # 960 (large) or 576 (small), as in the paper
        hidden = to_multiple_of_8(V3_HIDDEN[size] * width)
        self.closing = unit(channels, closing_width, 1, 1, nn.Hardswish, norm=norm)
        self.head = nn.Sequential(
            nn.Linear(closing_width, hidden), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )
        initialize_he(self)
        nn.init.normal_(self.head[-1].weight, std=0.01)  # as initialize_he does in `Head`

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.closing(self.stages(self.stem(images))).mean((2, 3)))
