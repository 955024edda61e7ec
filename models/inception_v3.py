"""Inception v3: convolutions factorised into smaller and into asymmetric ones.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer
Vision", CVPR 2016, arXiv 1512.00567, table 1 and figs. 5 to 7 and 10.

The widths are those of the authors' released network. For 32x32 images the five convolutions of the
stem have stride 1 and same padding, and there is no pooling, so that the maps of the three stages have
32, 15 and 7 pixels on each side.
"""

from functools import partial

from torch import Tensor, nn

from models import layers
from models.layers import Attention, Concatenation, Head, attended, initialize_he, require_size

chain = partial(layers.chain, eps=1e-3)  # the BN epsilon of the released network


def average_pool() -> nn.Module:
    """3x3 average pooling with stride 1; zero padding counts, as in torchvision."""
    return nn.AvgPool2d(3, 1, padding=1)


def module_a(in_channels: int, pool_width: int) -> Concatenation:
    """Fig. 5: 1x1; 5x5; two 3x3; pooling. [B, C, H, W] -> [B, 224 + pool_width, H, W]."""
    return Concatenation(
        chain(in_channels, (64, 1)),
        chain(in_channels, (48, 1), (64, 5)),
        chain(in_channels, (64, 1), (96, 3), (96, 3)),
        nn.Sequential(average_pool(), chain(in_channels, (pool_width, 1))),
    )


def reduction_a(in_channels: int) -> Concatenation:
    """Fig. 10: 3x3; two 3x3; max pooling; all with stride 2. [B, C, H, W] -> [B, 480 + C, (H-1)/2, (W-1)/2]."""
    return Concatenation(
        chain(in_channels, (384, 3, 2)),
        chain(in_channels, (64, 1), (96, 3), (96, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def module_b(in_channels: int, inner: int) -> Concatenation:
    """Fig. 6, n=7: 1x1; 1x7, 7x1; 7x1, 1x7, 7x1, 1x7; pooling. [B, C, H, W] -> [B, 768, H, W]."""
    return Concatenation(
        chain(in_channels, (192, 1)),
        chain(in_channels, (inner, 1), (inner, (1, 7)), (192, (7, 1))),
        chain(in_channels, (inner, 1), (inner, (7, 1)), (inner, (1, 7)), (inner, (7, 1)), (192, (1, 7))),
        nn.Sequential(average_pool(), chain(in_channels, (192, 1))),
    )


def reduction_b(in_channels: int) -> Concatenation:
    """3x3; 1x7, 7x1, 3x3; max pooling; all with stride 2. [B, C, H, W] -> [B, 512 + C, (H-1)/2, (W-1)/2]."""
    return Concatenation(
        chain(in_channels, (192, 1), (320, 3, 2)),
        chain(in_channels, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def module_c(in_channels: int) -> Concatenation:
    """Fig. 7: 1x1; 1x3 and 3x1; 3x3, then 1x3 and 3x1; pooling. [B, C, H, W] -> [B, 2048, H, W]."""

    def both_ways(channels: int) -> Concatenation:
        return Concatenation(chain(channels, (384, (1, 3))), chain(channels, (384, (3, 1))))

    return Concatenation(
        chain(in_channels, (320, 1)),
        nn.Sequential(chain(in_channels, (384, 1)), both_ways(384)),
        nn.Sequential(chain(in_channels, (448, 1), (384, 3)), both_ways(384)),
        nn.Sequential(average_pool(), chain(in_channels, (192, 1))),
    )


class InceptionV3(nn.Module):
    """Inception v3 for small images.

    | layer                                   | output for a 32x32 image |
    | --------------------------------------- | ------------------------ |
    | stem: 3x3 three times, 1x1, 3x3         | [B, 192, 32, 32]         |
    | stages[0]: three modules of fig. 5      | [B, 288, 32, 32]         |
    | stages[1]: reduction, four of fig. 6    | [B, 768, 15, 15]         |
    | stages[2]: reduction, two of fig. 7     | [B, 2048, 7, 7]          |
    | head                                    | [B, K]                   |

    With `auxiliary_head`, `forward` in training returns the logits and those of a head with BN after
    stages[1] (sec. 4), whose loss has weight `auxiliary_weight`. `block_attention` follows each module
    (models/attention.py). `dropout` is applied before the last layer; the released network has 0.2,
    torchvision 0.5.
    """

    auxiliary_weight = 0.4

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        auxiliary_head: bool,
        block_attention: Attention | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.stem = chain(in_channels, (32, 3), (32, 3), (64, 3), (80, 1), (192, 3))
        self.stages = nn.Sequential(
            attended(block_attention, 32, (module_a(192, 32), 256), (module_a(256, 64), 288), (module_a(288, 64), 288)),
            attended(
                block_attention,
                15,
                (reduction_a(288), 768),
                *((module_b(768, inner), 768) for inner in (128, 160, 160, 192)),
            ),
            attended(block_attention, 7, (reduction_b(768), 1280), (module_c(1280), 2048), (module_c(2048), 2048)),
        )
        self.auxiliary_head = None
        if auxiliary_head:
            # The released head pools 17x17 maps to 5x5; here they are 15x15.
            self.auxiliary_head = nn.Sequential(
                nn.AdaptiveAvgPool2d(5),
                chain(768, (128, 1)),
                layers.ConvUnit(128, 768, 5, padding=0, eps=1e-3),
                nn.Flatten(),
                nn.Linear(768, num_classes),
            )
        self.head = Head(2048, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        require_size(images)
        x = self.stages[:2](self.stem(images))
        logits = self.head(self.stages[2](x))
        return (logits, self.auxiliary_head(x)) if self.training and self.auxiliary_head else logits
