"""ResNeXt: residual networks with grouped convolutions.

Xie, Girshick, Dollar, Tu and He, "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, arXiv 1611.05431.

ResNeXt-29 is the network of sec. 5.3 for CIFAR: one 3x3 convolution, three stages of three blocks.
ResNeXt-50 and 101 are those of table 1 with the same small stem. BN and ReLU follow the convolutions,
as in the authors' later code, which is more accurate than the pre-activation form of the first arXiv
version.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.drop_block import DropBlock
from models.layers import Attention, BlockSettings, Head, block_settings, branch_end, initialize_he, require_size


class ResNeXtBlock(nn.Module):
    """1x1 reduce, 3x3 in groups, 1x1 expand, each with BN; plus shortcut; ReLU. [B, C, H, W] -> [B, C', H/s, W/s].

    `inner_channels` is cardinality times the width of one path. The grouped convolution (fig. 3c) is
    equivalent to separate paths (fig. 3a) and to early concatenation (fig. 3b). Where shapes change, the
    shortcut is a 1x1 convolution with BN.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        settings: BlockSettings,
        cardinality: int,
        attention: Attention | None,
    ):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner_channels, 1, bias=False),
            nn.BatchNorm2d(inner_channels),
            settings.with_drop_block(nn.ReLU()),
            nn.Conv2d(inner_channels, inner_channels, 3, settings.stride, padding=1, groups=cardinality, bias=False),
            nn.BatchNorm2d(inner_channels),
            settings.with_drop_block(nn.ReLU()),
            nn.Conv2d(inner_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            *branch_end(out_channels, settings, attention),
        )
        shortcut = nn.Identity()
        if settings.stride != 1 or in_channels != out_channels:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, settings.stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.shortcut = settings.with_drop_block(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


class ResNeXt(nn.Module):
    """A ResNeXt for small images: `cardinality` paths, each `width` channels wide in the first stage.

    | layer       | ResNeXt-29, 32x32 image | ResNeXt-50, 32x32 image |
    | ----------- | ----------------------- | ----------------------- |
    | stem        | [B, 64, 32, 32]         | [B, 64, 32, 32]         |
    | stages[0]   | [B, 256, 32, 32]        | [B, 256, 32, 32]        |
    | stages[1]   | [B, 512, 16, 16]        | [B, 512, 16, 16]        |
    | stages[2]   | [B, 1024, 8, 8]         | [B, 1024, 8, 8]         |
    | stages[3]   |                         | [B, 2048, 4, 4]         |
    | head        | [B, K]                  | [B, K]                  |

    Each stage doubles the channels and halves the image. `block_attention` ends each residual branch,
    `stage_attention` each stage but the last (models/attention.py). `dropout` is applied before the last
    layer; the paper has none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        cardinality: int,
        width: int,
        depths: Sequence[int],
        block_attention: Attention | None = None,
        stage_attention: Attention | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        shake_drop: float = 0.0,
        drop_block: DropBlock | None = None,
    ):
        super().__init__()
        channels = 64
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.stages = nn.Sequential(*(nn.Sequential() for _ in depths))
        for settings in block_settings(depths, drop_path=drop_path, shake_drop=shake_drop, drop_block=drop_block):
            inner_channels, out_channels = cardinality * width * 2**settings.stage, 256 * 2**settings.stage
            self.stages[settings.stage].append(
                ResNeXtBlock(channels, inner_channels, out_channels, settings, cardinality, block_attention)
            )
            channels = out_channels
        if stage_attention:
            for index, stage in enumerate(self.stages[:-1]):
                stage.append(stage_attention(256 * 2**index, 32 // 2**index))
        self.head = Head(channels, num_classes, dropout=dropout)
        initialize_he(self)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)))
