"""ResNets for CIFAR, and the ResNets for ImageNet with a smaller stem.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.

ResNet-20, 32, 44, 56, 110 and 1202 are the networks for CIFAR of sec. 4.2, with three stages of 16, 32
and 64 channels. ResNet-18, 34, 50, 101 and 152 are the networks for ImageNet of table 1, with four stages
of width 64 to 512. Their stem is one 3x3 convolution with stride 1: the paper's stem, a 7x7 convolution
with stride 2 and a max pooling, would reduce a 32x32 image to 8x8. In a bottleneck block the 3x3
convolution does the downsampling, as in fb.resnet.torch and torchvision; in the paper the first 1x1
convolution does. The number of parameters is the same.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.drop_block import DropBlock
from models.layers import (
    Attention,
    BlockSettings,
    Checkpointed,
    Head,
    block_settings,
    branch_end,
    initialize_he,
    require_size,
)

Shortcut = Literal["A", "A_symmetric", "B", "C"]


class ZeroPadShortcut(nn.Module):
    """Option A of sec. 4.2: strided subsampling and zero-padded channels. No parameters.

    `before` zero channels are added before the existing ones, the others after them.
    [B, C, H, W] -> [B, out_channels, H/s, W/s].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, before: int = 0):
        super().__init__()
        self.stride = stride
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def make_shortcut(option: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcuts of sec. 4.1.

    "A": where the shape changes, zero channels are appended, as in fb.resnet.torch. "A_symmetric": half of
    the zero channels are added before the existing ones and half after. Some other implementations do
    this; use it to load their weights. "B": 1x1 convolution and BN where the shape changes. "C": 1x1
    convolution and BN everywhere.
    """
    same_shape = stride == 1 and in_channels == out_channels
    if same_shape and option != "C":
        return nn.Identity()
    if option in ("A", "A_symmetric"):
        before = (out_channels - in_channels) // 2 if option == "A_symmetric" else 0
        return ZeroPadShortcut(in_channels, out_channels, stride, before)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN; plus shortcut; ReLU. [B, C, H, W] -> [B, width, H/s, W/s]."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, settings: BlockSettings, shortcut: Shortcut, attention: Attention | None
    ):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, settings.stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            settings.with_drop_block(nn.ReLU()),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            *branch_end(width, settings, attention),
        )
        self.shortcut = settings.with_drop_block(make_shortcut(shortcut, in_channels, width, settings.stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand (x4), each with BN; plus shortcut; ReLU. [B, C, H, W] -> [B, 4*width, H/s, W/s]."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, settings: BlockSettings, shortcut: Shortcut, attention: Attention | None
    ):
        super().__init__()
        out_channels = self.expansion * width
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            settings.with_drop_block(nn.ReLU()),
            nn.Conv2d(width, width, 3, settings.stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            settings.with_drop_block(nn.ReLU()),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            *branch_end(out_channels, settings, attention),
        )
        self.shortcut = settings.with_drop_block(make_shortcut(shortcut, in_channels, out_channels, settings.stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class ResNet(nn.Module):
    """A residual network for small images; `widths` and `depths` have one entry per stage.

    | layer       | ResNet-20, 32x32 image  | ResNet-50, 32x32 image  |
    | ----------- | ----------------------- | ----------------------- |
    | stem        | [B, 16, 32, 32]         | [B, 64, 32, 32]         |
    | stages[0]   | [B, 16, 32, 32]         | [B, 256, 32, 32]        |
    | stages[1]   | [B, 32, 16, 16]         | [B, 512, 16, 16]        |
    | stages[2]   | [B, 64, 8, 8]           | [B, 1024, 8, 8]         |
    | stages[3]   |                         | [B, 2048, 4, 4]         |
    | head        | [B, K]                  | [B, K]                  |

    `block_attention` is added at the end of each residual branch, before drop path and ShakeDrop;
    `stage_attention` at the end of each stage except the last (models/attention.py).
    `gradient_checkpointing` recomputes the activations within blocks in the backward pass.
    `dropout` is applied before the last layer; the paper uses no dropout.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        block: Literal["basic", "bottleneck"],
        widths: Sequence[int],
        depths: Sequence[int],
        shortcut: Shortcut,
        gradient_checkpointing: bool = False,
        block_attention: Attention | None = None,
        stage_attention: Attention | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        shake_drop: float = 0.0,
        drop_block: DropBlock | None = None,
    ):
        super().__init__()
        block_class = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
        channels = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.stages = nn.Sequential(*(Checkpointed(enabled=gradient_checkpointing) for _ in widths))
        for settings in block_settings(depths, drop_path=drop_path, shake_drop=shake_drop, drop_block=drop_block):
            width = widths[settings.stage]
            self.stages[settings.stage].append(block_class(channels, width, settings, shortcut, block_attention))
            channels = block_class.expansion * width
        if stage_attention:
            for index, stage in enumerate(self.stages[:-1]):
                size = 32 // 2**index  # of the feature maps for a 32x32 image
                stage.append(stage_attention(block_class.expansion * widths[index], size))
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
