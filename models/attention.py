"""Attention modules, passed to a residual network by its configuration.

Each is built as `Module(channels, size)`, where `size` is the side of its feature maps for a 32x32
image, and maps [B, C, H, W] to [B, C, H, W]. SE, CBAM and GE end the residual branch of a block
(`block_attention`); BAM follows a stage (`stage_attention`). Every module works in both.
`gate` returns the attention weights; CBAM has two gates, `channel_gate` and `spatial_gate`.

SE    Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507.
BAM   Park, Woo, Lee and Kweon, "BAM: Bottleneck Attention Module", BMVC 2018, arXiv 1807.06514.
CBAM  Woo, Park, Lee and Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.
GE    Hu, Shen, Albanie, Sun and Vedaldi, "Gather-Excite: Exploiting Feature Context in Convolutional
      Neural Networks", NeurIPS 2018, arXiv 1810.12348.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import depthwise_conv


class SqueezeExcitation(nn.Module):
    """Global average, reduce, ReLU, expand, sigmoid, scale; both layers have biases, as in the authors' code.

    `reduction` is the r of the paper: C // r channels, at least one, between the two layers.
    """

    def __init__(self, channels: int, size: int, *, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.excitation = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, between 0 and 1. [B, C, H, W] -> [B, C, 1, 1]."""
        return self.excitation(x.mean((2, 3))).sigmoid()[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class BottleneckAttention(nn.Module):
    """BAM: x * (1 + sigmoid(channel and spatial attention)).

    Channel branch: global average, C -> C/r, BN, ReLU, C/r -> C. Spatial branch: 1x1 to C/r, two 3x3
    with dilation 4, each with BN and ReLU, 1x1 to one map. All layers have biases.

    `combine` is "sum" as in the paper (eq. 2) or "product" as in the authors' code. As in that code,
    BN follows the hidden layers, not the last.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        combine: Literal["product", "sum"] = "product",
    ):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.combine = combine
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.spatial = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        for _ in range(2):
            self.spatial.extend(
                [
                    nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation),
                    nn.BatchNorm2d(hidden),
                    nn.ReLU(),
                ]
            )
        self.spatial.append(nn.Conv2d(hidden, 1, 1))

    def gate(self, x: Tensor) -> Tensor:
        """The attention weights, between 0 and 1. [B, C, H, W] -> [B, C, H, W]."""
        channel, spatial = self.channel(x.mean((2, 3)))[:, :, None, None], self.spatial(x)
        return (channel + spatial if self.combine == "sum" else channel * spatial).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.gate(x))


class ConvBlockAttention(nn.Module):
    """CBAM: a gate over channels, then one over positions.

    Channels (eq. 2): sigmoid of one shared two-layer network on the maximum plus the same on the
    average. Positions (eq. 3): sigmoid of BN of a 7x7 convolution of the maximum and the mean over
    channels. The scale of that BN starts at 0 and its momentum is 0.01, as in the authors' code.

    `pooling` selects both poolings or one of them, as in the paper's ablations.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        reduction: int = 16,
        pooling: Literal["both", "average", "max"] = "both",
    ):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.pooling = pooling
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        norm = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(norm.weight)
        maps = 2 if pooling == "both" else 1
        self.spatial = nn.Sequential(nn.Conv2d(maps, 1, 7, padding=3, bias=False), norm, nn.Sigmoid())

    def pool(self, x: Tensor, dims: tuple[int, ...]) -> list[Tensor]:
        """The maximum and the mean over `dims` (kept with size 1), or one of them, according to `pooling`."""
        pooled = []
        if self.pooling != "average":
            pooled.append(x.amax(dims, keepdim=True))
        if self.pooling != "max":
            pooled.append(x.mean(dims, keepdim=True))
        return pooled

    def channel_gate(self, x: Tensor) -> Tensor:
        """The channel weights, between 0 and 1. [B, C, H, W] -> [B, C, 1, 1]."""
        scores = [self.channel(pooled.flatten(1)) for pooled in self.pool(x, (2, 3))]
        return sum(scores).sigmoid()[:, :, None, None]

    def spatial_gate(self, x: Tensor) -> Tensor:
        """The weights of the positions, between 0 and 1; x is already channel-gated. [B, C, H, W] -> [B, 1, H, W]."""
        return self.spatial(torch.cat(self.pool(x, (1,)), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channel_gate(x)
        return x * self.spatial_gate(x)


class GatherExcite(nn.Module):
    """GE: x * sigmoid(features gathered over a neighbourhood, interpolated to the size of x).

    `extent` is the paper's extent ratio e: 2, 4, 8, or 0 for global. `variant`:
      theta_minus  gathers by average pooling; no parameters
      theta        gathers by depthwise convolutions with BN: log2(e) of 3x3 with stride 2 and ReLU
                   between them, or for global extent one as large as the map
      theta_plus   theta, then ReLU, 1x1 to C/r, ReLU, 1x1 to C

    With global extent and parameters, maps larger than those of a 32x32 image are gathered at every
    position and averaged.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        extent: Literal[0, 2, 4, 8] = 0,
        variant: Literal["theta_minus", "theta", "theta_plus"] = "theta_plus",
        reduction: int = 16,
    ):
        super().__init__()
        self.extent = extent
        self.gather = nn.Sequential()
        if variant != "theta_minus":
            steps = extent.bit_length() - 1 if extent else 1
            for step in range(steps):
                if step > 0:
                    self.gather.append(nn.ReLU())
                kernel, stride, padding = (3, 2, 1) if extent else (size, 1, 0)
                self.gather.append(depthwise_conv(channels, kernel, stride, padding))
                self.gather.append(nn.BatchNorm2d(channels))
        elif extent:
            # A window of 2e-1 every e pixels; padding is excluded from the mean.
            self.gather.append(nn.AvgPool2d(2 * extent - 1, extent, padding=extent - 1, count_include_pad=False))
        self.excite = nn.Sequential()
        if variant == "theta_plus":
            hidden = max(channels // reduction, 1)
            self.excite = nn.Sequential(
                nn.ReLU(), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
            )

    def gate(self, x: Tensor) -> Tensor:
        """The weights of each channel at each position, between 0 and 1. [B, C, H, W] -> [B, C, H, W]."""
        gathered = self.gather(x)
        if not self.extent:
            gathered = gathered.mean((2, 3), keepdim=True)
        return F.interpolate(self.excite(gathered), size=x.shape[-2:], mode="nearest").sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
