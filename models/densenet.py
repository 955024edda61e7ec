"""DenseNet: the input of each layer is the concatenated output of all layers before it.

Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
arXiv 1608.06993.

DenseNet-BC-100 and 190 are the networks of sec. 3 for CIFAR: three dense blocks with bottlenecks (B) and
compression (C). DenseNet-121 to 201 have the four dense blocks of table 1. Their stem is a single 3x3
convolution; it replaces the 7x7 convolution, BN, ReLU and max pooling. As in the authors' code, each
layer concatenates its new channels after its input channels, and a transition contains a ReLU, which
the paper does not mention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import Checkpointed, Head, initialize_he, require_size


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 4k channels, BN, ReLU, 3x3 to k channels, dropout; concatenated to the input.

    k is `growth_rate`. [B, C, H, W] -> [B, C + k, H, W].
    """

    def __init__(self, in_channels: int, growth_rate: int, dropout: float):
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=False),
            nn.BatchNorm2d(4 * growth_rate),
            nn.ReLU(),
            nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)


class Transition(nn.Sequential):
    """BN, ReLU, 1x1, average pool 2. [B, C, H, W] -> [B, out_channels, H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """A DenseNet-BC for small images.

    `depths` gives the number of dense layers of each stage; `growth_rate` is k in the paper. Each stage is a
    dense block and a transition; the last stage has no transition.

    | layer       | DenseNet-BC-100, k=12   | DenseNet-121, k=32      |
    | ----------- | ----------------------- | ----------------------- |
    | stem        | [B, 24, 32, 32]         | [B, 64, 32, 32]         |
    | stages[0]   | [B, 108, 16, 16]        | [B, 128, 16, 16]        |
    | stages[1]   | [B, 150, 8, 8]          | [B, 256, 8, 8]          |
    | stages[2]   | [B, 342, 8, 8]          | [B, 512, 4, 4]          |
    | stages[3]   |                         | [B, 1024, 4, 4]         |
    | closing     | [B, 342, 8, 8]          | [B, 1024, 4, 4]         |
    | head        | [B, K]                  | [B, K]                  |

    A transition multiplies the number of channels by `compression`, rounded down. `closing` is the last BN
    and ReLU.
    `dropout` follows each 3x3 convolution (sec. 3). `gradient_checkpointing` recomputes the activations within
    dense layers in the backward pass, as in the authors' technical report (Pleiss et al. 2017, arXiv
    1707.06990).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        growth_rate: int,
        depths: Sequence[int],
        compression: float,
        gradient_checkpointing: bool,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels = 2 * growth_rate
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for index, depth in enumerate(depths):
            stage = Checkpointed(enabled=gradient_checkpointing)
            for _ in range(depth):
                stage.append(DenseLayer(channels, growth_rate, dropout))
                channels += growth_rate
            if index < len(depths) - 1:
                out_channels = max(int(compression * channels), 1)
                stage.append(Transition(channels, out_channels))
                channels = out_channels
            self.stages.append(stage)
        self.closing = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.head = Head(channels, num_classes)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.closing(self.stages(self.stem(images))))
