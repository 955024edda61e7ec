"""Inception-ResNet v1 and v2: Inception modules as residual branches.

Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", AAAI 2017, arXiv 1602.07261.

v1 is the network of figs. 10 to 14. Two networks are called v2: that of figs. 15 to 19, and the
released one in common use, with another stem, other widths and twice the blocks.
`InceptionResNetV2` is the released one. For 32x32 images the stems have stride 1, same padding and no
pooling, so that the maps of the three stages have 32, 15 and 7 pixels on each side.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models import layers
from models.layers import Attention, Concatenation, Head, initialize_he, require_size

chain = partial(layers.chain, eps=1e-3)  # the BN epsilon of the released networks


class Residual(nn.Module):
    """Branches concatenated, 1x1 with bias and without BN, scaled; plus input; ReLU. [B, C, H, W] -> [B, C, H, W].

    `width` is the total number of channels of the branches, `scale` the factor on the residual branch (sec. 3.3).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        scale: float,
        *branches: nn.Module,
        size: int,
        attention: Attention | None,
        relu: bool = True,
    ):
        super().__init__()
        self.scale = scale
        self.relu = relu
        self.residual = nn.Sequential(Concatenation(*branches), nn.Conv2d(width, channels, 1))
        if attention:
            self.residual.append(attention(channels, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.residual(x)
        return F.relu(x) if self.relu else x


class InceptionResNetV1(nn.Module):
    """Inception-ResNet v1 for small images.

    | layer                                                | output for a 32x32 image |
    | ---------------------------------------------------- | ------------------------ |
    | stem: 3x3 three times, 1x1, 3x3, 3x3                 | [B, 256, 32, 32]         |
    | stages[0]: five blocks of fig. 10                    | [B, 256, 32, 32]         |
    | stages[1]: reduction (fig. 7), ten of fig. 11        | [B, 896, 15, 15]         |
    | stages[2]: reduction (fig. 12), five of fig. 13      | [B, 1792, 7, 7]          |
    | head                                                 | [B, K]                   |

    `block_attention` ends each residual branch (models/attention.py). `dropout` is applied before the
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

        def block_a() -> Residual:
            one, two, three = chain(256, (32, 1)), chain(256, (32, 1), (32, 3)), chain(256, (32, 1), (32, 3), (32, 3))
            return Residual(256, 96, 0.17, one, two, three, size=32, attention=block_attention)

        def block_b() -> Residual:
            one, two = chain(896, (128, 1)), chain(896, (128, 1), (128, (1, 7)), (128, (7, 1)))
            return Residual(896, 256, 0.10, one, two, size=15, attention=block_attention)

        def block_c() -> Residual:
            one, two = chain(1792, (192, 1)), chain(1792, (192, 1), (192, (1, 3)), (192, (3, 1)))
            return Residual(1792, 384, 0.20, one, two, size=7, attention=block_attention)

        reduction_a = Concatenation(
            chain(256, (384, 3, 2)), chain(256, (192, 1), (192, 3), (256, 3, 2)), nn.MaxPool2d(3, 2)
        )
        reduction_b = Concatenation(
            chain(896, (256, 1), (384, 3, 2)),
            chain(896, (256, 1), (256, 3, 2)),
            chain(896, (256, 1), (256, 3), (256, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.stem = chain(in_channels, (32, 3), (32, 3), (64, 3), (80, 1), (192, 3), (256, 3))
        self.stages = nn.Sequential(
            nn.Sequential(*(block_a() for _ in range(5))),
            nn.Sequential(reduction_a, *(block_b() for _ in range(10))),
            nn.Sequential(reduction_b, *(block_c() for _ in range(5))),
        )
        self.head = Head(1792, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))


class InceptionResNetV2(nn.Module):
    """Inception-ResNet v2, the released network, for small images.

    | layer                                                          | output for a 32x32 image |
    | -------------------------------------------------------------- | ------------------------ |
    | stem: 3x3 three times, 1x1, 3x3, one Inception module          | [B, 320, 32, 32]         |
    | stages[0]: ten blocks of 1x1; 3x3; 3x3, 3x3                    | [B, 320, 32, 32]         |
    | stages[1]: reduction, twenty blocks of 1x1; 1x7, 7x1           | [B, 1088, 15, 15]        |
    | stages[2]: reduction, ten blocks of 1x1; 1x3, 3x1              | [B, 2080, 7, 7]          |
    | closing: 1x1                                                   | [B, 1536, 7, 7]          |
    | head                                                           | [B, K]                   |

    The last block is neither scaled nor followed by a ReLU. `block_attention` ends each residual
    branch (models/attention.py). `dropout` is applied before the last layer; the paper has 0.2.
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

        def block_a() -> Residual:
            one, two, three = chain(320, (32, 1)), chain(320, (32, 1), (32, 3)), chain(320, (32, 1), (48, 3), (64, 3))
            return Residual(320, 128, 0.17, one, two, three, size=32, attention=block_attention)

        def block_b() -> Residual:
            one, two = chain(1088, (192, 1)), chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1)))
            return Residual(1088, 384, 0.10, one, two, size=15, attention=block_attention)

        def block_c(scale: float = 0.20, relu: bool = True) -> Residual:
            one, two = chain(2080, (192, 1)), chain(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))
            return Residual(2080, 448, scale, one, two, size=7, attention=block_attention, relu=relu)

        reduction_a = Concatenation(
            chain(320, (384, 3, 2)), chain(320, (256, 1), (256, 3), (384, 3, 2)), nn.MaxPool2d(3, 2)
        )
        reduction_b = Concatenation(
            chain(1088, (256, 1), (384, 3, 2)),
            chain(1088, (256, 1), (288, 3, 2)),
            chain(1088, (256, 1), (288, 3), (320, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.stem = nn.Sequential(
            chain(in_channels, (32, 3), (32, 3), (64, 3), (80, 1), (192, 3)),
            Concatenation(
                chain(192, (96, 1)),
                chain(192, (48, 1), (64, 5)),
                chain(192, (64, 1), (96, 3), (96, 3)),
                nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), chain(192, (64, 1))),
            ),
        )
        self.stages = nn.Sequential(
            nn.Sequential(*(block_a() for _ in range(10))),
            nn.Sequential(reduction_a, *(block_b() for _ in range(20))),
            nn.Sequential(reduction_b, *(block_c() for _ in range(9)), block_c(scale=1.0, relu=False)),
        )
        self.closing = chain(2080, (1536, 1))
        self.head = Head(1536, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.closing(self.stages(self.stem(images))))
