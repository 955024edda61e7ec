"""GoogLeNet, or Inception v1.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv 1409.4842, table 1.

For 32x32 images the stem keeps its three convolutions but no strides or pooling, so that the maps of
stage 3 are 32x32, of stage 4 16x16 and of stage 5 8x8. BN follows each convolution, as is usual since.
The 5x5 branch is a true 5x5; torchvision has a 3x3 there, others two 3x3.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import Attention, Concatenation, Head, chain, initialize_he, require_size

# Widths of: 1x1 | reduce, 3x3 | reduce, 5x5 | projection after pooling. One row per stage.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def inception(
    in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, projection: int
) -> Concatenation:
    """1x1; 1x1, 3x3; 1x1, 5x5; max pool 3, 1x1; concatenated. [B, C, H, W] -> [B, sum of widths, H, W]."""
    return Concatenation(
        chain(in_channels, (one, 1)),
        chain(in_channels, (reduce3, 1), (three, 3)),
        chain(in_channels, (reduce5, 1), (five, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, padding=1), chain(in_channels, (projection, 1))),
    )


class AuxiliaryHead(nn.Module):
    """Average pool 5 stride 3, 1x1 to 128, 1024, dropout 0.7, num_classes (sec. 5). [B, C, 16, 16] -> [B, K]."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.reduce = nn.Sequential(nn.AvgPool2d(5, 3), chain(in_channels, (128, 1)))
        self.classify = nn.Sequential(
            nn.Flatten(), nn.Linear(128 * 4 * 4, 1024), nn.ReLU(), nn.Dropout(0.7), nn.Linear(1024, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        if x.shape[-2:] != (4, 4):
            x = F.adaptive_avg_pool2d(x, 4)
        return self.classify(x)


class GoogLeNet(nn.Module):
    """GoogLeNet for small images.

    | layer                          | output for a 32x32 image |
    | ------------------------------ | ------------------------ |
    | stem: 3x3, 1x1, 3x3            | [B, 192, 32, 32]         |
    | stages[0]: 3a, 3b              | [B, 480, 32, 32]         |
    | stages[1]: max pool, 4a to 4e  | [B, 832, 16, 16]         |
    | stages[2]: max pool, 5a, 5b    | [B, 1024, 8, 8]          |
    | head                           | [B, K]                   |

    With `auxiliary_heads`, `forward` in training returns the logits and those of two heads after 4a and
    4d, whose losses have weight `auxiliary_weight` each. `block_attention` follows each module
    (models/attention.py; Hu et al. 2017, fig. 2). `dropout` is applied before the last layer; the paper
    has 0.4.
    """

    auxiliary_weight = 0.3

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        auxiliary_heads: bool,
        block_attention: Attention | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.stem = chain(in_channels, (64, 3), (64, 1), (192, 3))
        self.stages = nn.Sequential()
        channels = 192
        for index, modules in enumerate(STAGES):
            stage = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True) if index > 0 else nn.Identity())
            for widths in modules:
                block = nn.Sequential(inception(channels, *widths))
                one, _, three, _, five, projection = widths
                channels = one + three + five + projection
                if block_attention:
                    block.append(block_attention(channels, 32 // 2**index))
                stage.append(block)
            self.stages.append(stage)
        self.auxiliary_heads = nn.ModuleList()
        if auxiliary_heads:
            self.auxiliary_heads.extend([AuxiliaryHead(512, num_classes), AuxiliaryHead(528, num_classes)])
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        require_size(images)
        x3, (stage4, stage5) = self.stages[0](self.stem(images)), self.stages[1:]
        x4a = stage4[:2](x3)
        x4d = stage4[2:5](x4a)
        logits = self.head(stage5(stage4[5:](x4d)))
        if self.training and self.auxiliary_heads:
            return logits, self.auxiliary_heads[0](x4a), self.auxiliary_heads[1](x4d)
        return logits
