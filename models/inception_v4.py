"""Inception v4.

Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", AAAI 2017, arXiv 1602.07261, figs. 3 to 9.

For 32x32 images the stem has stride 1 and same padding throughout, so that the maps of the three
stages have 32, 15 and 7 pixels on each side. The order of 1x7 and 7x1 convolutions is that of the
authors' released network, which differs from the figures in places.
"""

from functools import partial

from torch import Tensor, nn

from models import layers
from models.layers import Attention, Concatenation, Head, attended, initialize_he, require_size

chain = partial(layers.chain, eps=1e-3)  # the BN epsilon of the released network


def average_pool() -> nn.Module:
    """3x3 average pooling with stride 1; padding is excluded from the mean."""
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def stem(in_channels: int) -> nn.Sequential:
    """Fig. 3 with stride 1 throughout. [B, C, H, W] -> [B, 384, H, W]."""
    return nn.Sequential(
        chain(in_channels, (32, 3), (32, 3), (64, 3)),
        Concatenation(nn.MaxPool2d(3, 1, padding=1), chain(64, (96, 3))),
        Concatenation(chain(160, (64, 1), (96, 3)), chain(160, (64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3))),
        Concatenation(chain(192, (192, 3)), nn.MaxPool2d(3, 1, padding=1)),
    )


def module_a() -> Concatenation:
    """Fig. 4: pooling; 1x1; 3x3; two 3x3. [B, 384, H, W] -> [B, 384, H, W]."""
    return Concatenation(
        chain(384, (96, 1)),
        chain(384, (64, 1), (96, 3)),
        chain(384, (64, 1), (96, 3), (96, 3)),
        nn.Sequential(average_pool(), chain(384, (96, 1))),
    )


def reduction_a() -> Concatenation:
    """Fig. 7 with k, l, m, n = 192, 224, 256, 384. [B, 384, H, W] -> [B, 1024, (H-1)/2, (W-1)/2]."""
    return Concatenation(chain(384, (384, 3, 2)), chain(384, (192, 1), (224, 3), (256, 3, 2)), nn.MaxPool2d(3, 2))


def module_b() -> Concatenation:
    """Fig. 5: pooling; 1x1; 1x7, 7x1; 7x1, 1x7, 7x1, 1x7. [B, 1024, H, W] -> [B, 1024, H, W]."""
    return Concatenation(
        chain(1024, (384, 1)),
        chain(1024, (192, 1), (224, (1, 7)), (256, (7, 1))),
        chain(1024, (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
        nn.Sequential(average_pool(), chain(1024, (128, 1))),
    )


def reduction_b() -> Concatenation:
    """Fig. 8: 3x3; 1x7, 7x1, 3x3; max pooling. [B, 1024, H, W] -> [B, 1536, (H-1)/2, (W-1)/2]."""
    return Concatenation(
        chain(1024, (192, 1), (192, 3, 2)),
        chain(1024, (256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def module_c() -> Concatenation:
    """Fig. 6: pooling; 1x1; 1x3 and 3x1; 3x1, 1x3, then 1x3 and 3x1. [B, 1536, H, W] -> [B, 1536, H, W]."""

    def both_ways(channels: int) -> Concatenation:
        return Concatenation(chain(channels, (256, (1, 3))), chain(channels, (256, (3, 1))))

    return Concatenation(
        chain(1536, (256, 1)),
        nn.Sequential(chain(1536, (384, 1)), both_ways(384)),
        nn.Sequential(chain(1536, (384, 1), (448, (3, 1)), (512, (1, 3))), both_ways(512)),
        nn.Sequential(average_pool(), chain(1536, (256, 1))),
    )


class InceptionV4(nn.Module):
    """Inception v4 for small images.

    | layer                                  | output for a 32x32 image |
    | -------------------------------------- | ------------------------ |
    | stem                                   | [B, 384, 32, 32]         |
    | stages[0]: four modules A              | [B, 384, 32, 32]         |
    | stages[1]: reduction, seven modules B  | [B, 1024, 15, 15]        |
    | stages[2]: reduction, three modules C  | [B, 1536, 7, 7]          |
    | head                                   | [B, K]                   |

    `block_attention` follows each module (models/attention.py). `dropout` is applied before the
    last layer; the paper has 0.2.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        block_attention: Attention | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()

        self.stem = stem(in_channels)
        self.stages = nn.Sequential(
            attended(block_attention, 32, *((module_a(), 384) for _ in range(4))),
            attended(block_attention, 15, (reduction_a(), 1024), *((module_b(), 1024) for _ in range(7))),
            attended(block_attention, 7, (reduction_b(), 1536), *((module_c(), 1536) for _ in range(3))),
        )
        self.head = Head(1536, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
