"""ResNets: those for CIFAR, and those for ImageNet with a smaller stem.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.

ResNet-20 to 1202 are the networks of sec. 4.2: three stages of 16, 32 and 64 channels. ResNet-18 to
152 have the four stages of table 1 (64 to 512 channels). Their stem is one 3x3 convolution of stride 1
in place of the 7x7 of stride 2 and the max pooling, which would reduce 32x32 pixels to 8x8. A
bottleneck block has its stride in the 3x3 convolution, as in fb.resnet.torch and torchvision, in the
paper in the first 1x1; parameters are the same.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.drop_block import DropBlock
from models.layers import Attention, Checkpointed, Head, Place, branch_end, initialize_he, places, require_size

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

    A pads with zero channels where shapes change: after the existing ones, as in fb.resnet.torch, or half
    before and half after ("A_symmetric"), as in some ports, for their weights. B projects where shapes
    change, C everywhere.
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

    def __init__(self, in_channels: int, width: int, place: Place, shortcut: Shortcut, attention: Attention | None):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, place.stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            place.dropping(nn.ReLU()),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            *branch_end(width, place, attention),
        )
        self.shortcut = place.dropping(make_shortcut(shortcut, in_channels, width, place.stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand (x4), each with BN; plus shortcut; ReLU. [B, C, H, W] -> [B, 4*width, H/s, W/s]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, place: Place, shortcut: Shortcut, attention: Attention | None):
        super().__init__()
        out_channels = self.expansion * width
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            place.dropping(nn.ReLU()),
            nn.Conv2d(width, width, 3, place.stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            place.dropping(nn.ReLU()),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            *branch_end(out_channels, place, attention),
        )
        self.shortcut = place.dropping(make_shortcut(shortcut, in_channels, out_channels, place.stride))

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

    `block_attention` ends each residual branch, `stage_attention` each stage but the last
    (models/attention.py). `gradient_checkpointing` recomputes the activations within blocks in the backward pass.
    `dropout` is applied before the last layer; the paper has none.
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
        make_block = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
        channels = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.stages = nn.Sequential(*(Checkpointed(enabled=gradient_checkpointing) for _ in widths))
        for place in places(depths, drop_path=drop_path, shake_drop=shake_drop, drop_block=drop_block):
            width = widths[place.stage]
            self.stages[place.stage].append(make_block(channels, width, place, shortcut, block_attention))
            channels = make_block.expansion * width
        if stage_attention:
            for index, stage in enumerate(self.stages[:-1]):
                stage.append(stage_attention(make_block.expansion * widths[index], 32 // 2**index))
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
