"""Shake-Shake: residual networks with two branches, mixed with random weights.

Gastaldi, "Shake-Shake regularization", 2017, arXiv 1705.07485, and the author's code
(shakeshake in Lua), whose shortcut shifts the image right and down.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import BlockSettings, Head, block_settings, initialize_he, require_size

Mixing = Literal["shake", "even"]
BackwardMixing = Literal["shake", "even", "keep"]


def mix(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return first * forward + second * (1 - forward), with `backward` in place of `forward` in the backward pass."""
    seen = torch.lerp(second, first, forward)
    differentiated = torch.lerp(second, first, backward)
    return differentiated + (seen - differentiated).detach()


class TwoPathShortcut(nn.Module):
    """ReLU; 1x1 of every s-th pixel, and of the image shifted right and down by one pixel, concatenated; BN.

    [B, C, H, W] -> [B, out_channels, H/s, W/s].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.still = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.moved = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        moved = F.pad(x, (1, -1, 1, -1))
        step = self.stride
        return self.norm(torch.cat([self.still(x[..., ::step, ::step]), self.moved(moved[..., ::step, ::step])], dim=1))


class ShakeShakeBlock(nn.Module):
    """Two branches of ReLU, 3x3, BN, ReLU, 3x3, BN, mixed; plus shortcut. [B, C, H, W] -> [B, width, H/s, W/s].

    In training, the weight of the first branch is drawn uniformly from [0, 1] ("shake"), for each image
    (`level="image"`) or once for the batch, or is 1/2 ("even"). Its weight in the backward pass is drawn
    again, is 1/2, or is the same ("keep"). In evaluation it is 1/2.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        settings: BlockSettings,
        *,
        forward_mixing: Mixing,
        backward_mixing: BackwardMixing,
        level: Literal["image", "batch"],
    ):
        super().__init__()
        self.forward_mixing, self.backward_mixing, self.level = forward_mixing, backward_mixing, level
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(in_channels, width, 3, settings.stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(2)
        )
        self.shortcut = nn.Identity()
        if settings.stride != 1 or in_channels != width:
            self.shortcut = TwoPathShortcut(in_channels, width, settings.stride)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (branch(x) for branch in self.branches)
        if not self.training:
            return self.shortcut(x) + (first + second) / 2
        forward = self.share(self.forward_mixing, first)
        backward = forward if self.backward_mixing == "keep" else self.share(self.backward_mixing, first)
        return self.shortcut(x) + mix(first, second, forward, backward)

    def share(self, mixing: Mixing, like: Tensor) -> Tensor:
        """A weight between 0 and 1 for each image, [B, 1, 1, 1], or for the batch, [1, 1, 1, 1]."""
        shape = (len(like) if self.level == "image" else 1, 1, 1, 1)
        if mixing == "even":
            return like.new_full(shape, 0.5)
        return torch.rand(shape, dtype=like.dtype, device=like.device)


class ShakeShake(nn.Module):
    """Shake-Shake-26 2xWd: three stages of `depths` blocks, the first `width` channels wide.

    | layer          | 2x96d, 32x32 image  |
    | -------------- | ------------------- |
    | stem: 3x3, BN  | [B, 16, 32, 32]     |
    | stages[0]      | [B, 96, 32, 32]     |
    | stages[1]      | [B, 192, 16, 16]    |
    | stages[2]      | [B, 384, 8, 8]      |
    | head: ReLU ... | [B, K]              |

    `dropout` is applied before the last layer; the paper has none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int,
        depths: tuple[int, ...] | list[int],
        forward_mixing: Mixing,
        backward_mixing: BackwardMixing,
        level: Literal["image", "batch"],
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % 2:
            raise ValueError(f"width={width} is odd: each half of a shortcut has half the channels")
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.stages = nn.Sequential(*(nn.Sequential() for _ in depths))
        channels = 16
        for settings in block_settings(depths):
            out_channels = width * 2**settings.stage
            self.stages[settings.stage].append(
                ShakeShakeBlock(
                    channels,
                    out_channels,
                    settings,
                    forward_mixing=forward_mixing,
                    backward_mixing=backward_mixing,
                    level=level,
                )
            )
            channels = out_channels
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(F.relu(self.stages(self.stem(images))))
