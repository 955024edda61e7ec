"""Inception v2, or BN-Inception: the network that introduced batch normalisation.

Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", ICML 2015, arXiv 1502.03167, fig. 5 of the appendix.

Two 3x3 convolutions in place of a 5x5, average pooling in most modules, and modules of stride 2 in
place of pooling between stages. The pooling branches of 4c and 4d project to 96 channels, the only
width that gives the paper's output sizes (576 and 1024); its table and the released Caffe network have
128. For 32x32 images the stem is that of GoogLeNet: three convolutions of stride 1.
"""

from typing import Literal

from torch import Tensor, nn

from models.layers import Attention, Concatenation, ConvUnit, Head, chain, initialize_he, require_size

Pooling = Literal["average", "max"]

# Widths of: 1x1 | reduce, 3x3 | reduce, 3x3 twice | pooling, projection. One row per stage. Modules of
# stride 2 have no 1x1 branch, and max pooling without projection.
STAGES = (
    ((64, 64, 64, 64, 96, "average", 32), (64, 64, 96, 64, 96, "average", 64), (0, 128, 160, 64, 96, "max", 0)),
    (
        (224, 64, 96, 96, 128, "average", 128),
        (192, 96, 128, 96, 128, "average", 128),
        (160, 128, 160, 128, 160, "average", 96),
        (96, 128, 192, 160, 192, "average", 96),
        (0, 128, 192, 192, 256, "max", 0),
    ),
    ((352, 192, 320, 160, 224, "average", 128), (352, 192, 320, 192, 224, "max", 128)),
)


def inception(
    in_channels: int,
    one: int,
    reduce3: int,
    three: int,
    reduce_double: int,
    double: int,
    pooling: Pooling,
    projection: int,
) -> Concatenation:
    """1x1; 1x1, 3x3; 1x1, 3x3, 3x3; pool 3, 1x1; concatenated. [B, C, H, W] -> [B, sum of widths, H/s, W/s].

    If `one` is 0, the stride is 2 and there is neither a 1x1 branch nor a projection.
    """
    stride = 1 if one else 2
    if stride == 2:
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    else:
        pool = nn.AvgPool2d(3, 1, padding=1) if pooling == "average" else nn.MaxPool2d(3, 1, padding=1)
    branches = [
        nn.Sequential(ConvUnit(in_channels, reduce3, 1), ConvUnit(reduce3, three, 3, stride)),
        nn.Sequential(
            ConvUnit(in_channels, reduce_double, 1),
            ConvUnit(reduce_double, double, 3),
            ConvUnit(double, double, 3, stride),
        ),
        nn.Sequential(pool, ConvUnit(in_channels, projection, 1)) if projection else pool,
    ]
    return Concatenation(*([ConvUnit(in_channels, one, 1)] if one else []), *branches)


class InceptionV2(nn.Module):
    """Inception v2 for small images.

    | layer                  | output for a 32x32 image |
    | ---------------------- | ------------------------ |
    | stem: 3x3, 1x1, 3x3    | [B, 192, 32, 32]         |
    | stages[0]: 3a to 3c    | [B, 576, 16, 16]         |
    | stages[1]: 4a to 4e    | [B, 1024, 8, 8]          |
    | stages[2]: 5a, 5b      | [B, 1024, 8, 8]          |
    | head                   | [B, K]                   |

    `block_attention` follows each module (models/attention.py). `dropout` is applied before the last
    layer; the paper has none.
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
        self.stem = chain(in_channels, (64, 3), (64, 1), (192, 3))
        self.stages = nn.Sequential()
        channels, size = 192, 32
        for modules in STAGES:
            stage = nn.Sequential()
            for widths in modules:
                stage.append(inception(channels, *widths))
                one, _, three, _, double, _, projection = widths
                channels = one + three + double + (projection or channels)
                size = size if one else size // 2
                if block_attention:
                    stage.append(block_attention(channels, size))
            self.stages.append(stage)
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
