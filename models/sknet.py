"""Selective kernel networks: each block selects between kernel sizes, channel by channel.

Li, Wang, Hu and Yang, "Selective Kernel Networks", CVPR 2019, arXiv 1903.06586.

SKNet-26 and 50 are those of table 1, with one 3x3 convolution in place of the 7x7 and max pooling;
the 5x5 of the second branch is a 3x3 with dilation 2, as in the paper. SKNet-29 is that of sec. 4.2
for CIFAR, built on ResNeXt-29 16x32d; only kernels 1 and 3 give the 27.7 M parameters of table 6.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import (
    BlockSettings,
    ConvUnit,
    Float32Conv2d,
    Head,
    block_settings,
    branch_end,
    initialize_he,
    require_size,
)


class SelectiveKernel(nn.Module):
    """Split into branches, fuse, select (fig. 1). [B, C, H, W] -> [B, channels, H/s, W/s].

    The branches have the given `kernels` and `dilations`. Fuse: their sum, global average, linear to
    max(channels / r, L), BN, ReLU. Select: linear to channels * branches, softmax over the branches; the
    output is the sum of the branches with these weights. Both linear layers are without bias.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        kernels: Sequence[int],
        dilations: Sequence[int],
        groups: int,
        reduction: int,
        smallest: int,
    ):
        super().__init__()
        self.branches = nn.ModuleList()
        for kernel, dilation in zip(kernels, dilations, strict=True):
            padding = kernel // 2 * dilation
            # In bfloat16 and channels_last, torch's CPU kernels (seen in 2.15) compute a wrong weight gradient, from
            # uninitialised memory, for few channels per group and a dilation above 1.
            kind = Float32Conv2d if dilation > 1 else nn.Conv2d
            convolution = kind(
                in_channels, channels, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
            )
            self.branches.append(nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU()))
        hidden = max(channels // reduction, smallest)
        self.fuse = nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.select = nn.Linear(hidden, len(kernels) * channels, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """The outputs of all branches. [B, C, H, W] -> [B, branches, channels, H/s, W/s]."""
        return torch.stack([branch(x) for branch in self.branches], dim=1)

    def selection(self, maps: Tensor) -> Tensor:
        """The weight of each branch in each channel; they sum to 1. [B, branches, C, H, W] -> [B, branches, C]."""
        scores = self.select(self.fuse(maps.sum(1).mean((2, 3))))
        return scores.unflatten(1, (len(self.branches), -1)).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.split(x)
        return (maps * self.selection(maps)[..., None, None]).sum(1)


class SKBlock(nn.Module):
    """1x1 reduce, selective kernel, 1x1 expand, with BN; plus shortcut; ReLU. [B, C, H, W] -> [B, C', H/s, W/s]."""

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        settings: BlockSettings,
        *,
        kernels: Sequence[int],
        dilations: Sequence[int],
        groups: int,
        reduction: int,
        smallest: int,
    ):
        super().__init__()
        self.residual = nn.Sequential(
            ConvUnit(in_channels, inner_channels, 1),
            SelectiveKernel(
                inner_channels,
                inner_channels,
                settings.stride,
                kernels=kernels,
                dilations=dilations,
                groups=groups,
                reduction=reduction,
                smallest=smallest,
            ),
            nn.Conv2d(inner_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            *branch_end(out_channels, settings, None),
        )
        self.shortcut = nn.Identity()
        if settings.stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, settings.stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class SKNet(nn.Module):
    """A selective kernel network for small images; `depths` has one entry per stage.

    | layer       | SKNet-50                | SKNet-29                |
    | ----------- | ----------------------- | ----------------------- |
    | stem        | [B, 64, 32, 32]         | [B, 64, 32, 32]         |
    | stages[0]   | [B, 256, 32, 32]        | [B, 256, 32, 32]        |
    | stages[1]   | [B, 512, 16, 16]        | [B, 512, 16, 16]        |
    | stages[2]   | [B, 1024, 8, 8]         | [B, 1024, 8, 8]         |
    | stages[3]   | [B, 2048, 4, 4]         |                         |
    | head        | [B, K]                  | [B, K]                  |

    `width` is the inner width of the first stage, `groups` the paper's G, `reduction` its r and
    `smallest` its L; `kernels` and `dilations` have one entry per branch. `dropout` is applied
    before the last layer; the paper has none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int,
        depths: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
        groups: int,
        reduction: int,
        smallest: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        shake_drop: float = 0.0,
    ):
        super().__init__()
        channels = 64
        self.stem = ConvUnit(in_channels, channels, 3)
        self.stages = nn.Sequential(*(nn.Sequential() for _ in depths))
        for settings in block_settings(depths, drop_path=drop_path, shake_drop=shake_drop):
            inner_channels, out_channels = width * 2**settings.stage, 256 * 2**settings.stage
            self.stages[settings.stage].append(
                SKBlock(
                    channels,
                    inner_channels,
                    out_channels,
                    settings,
                    kernels=kernels,
                    dilations=dilations,
                    groups=groups,
                    reduction=reduction,
                    smallest=smallest,
                )
            )
            channels = out_channels
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
