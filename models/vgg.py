"""VGG: stacks of 3x3 convolutions.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, arXiv 1409.1556, configurations A, B, D and E of table 1.

As commonly used on CIFAR: BN after each convolution, and one fully connected layer in place of the
paper's three.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers import Head, initialize_he, require_size


class VGG(nn.Module):
    """A VGG for small images; `depths` are the numbers of 3x3 convolutions (bias, BN, ReLU) in each stage.

    | layer                                | output for a 32x32 image |
    | ------------------------------------ | ------------------------ |
    | stages[0]: 3x3 ..., max pool 2       | [B, 64, 16, 16]          |
    | stages[1]                            | [B, 128, 8, 8]           |
    | stages[2]                            | [B, 256, 4, 4]           |
    | stages[3]                            | [B, 512, 2, 2]           |
    | stages[4]                            | [B, 512, 1, 1]           |
    | head                                 | [B, K]                   |

    Without `batch_norm`, convolutions are the paper's, with Glorot initialisation, which its authors
    found to make pre-training unnecessary (sec. 3.1). `dropout` is applied before the last layer.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        depths: Sequence[int],
        batch_norm: bool,
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(depths) != 5:
            raise ValueError(f"depths={list(depths)}: a VGG has five stages")
        channels = in_channels
        self.stages = nn.Sequential()
        for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    stage.append(nn.BatchNorm2d(width))
                stage.append(nn.ReLU())
                channels = width
            self.stages.append(stage.append(nn.MaxPool2d(2)))
        self.head = Head(channels, num_classes, dropout=dropout)
        if batch_norm:
            initialize_he(self)
        else:
            self.initialize_glorot()

    def initialize_glorot(self) -> None:
        """Glorot and Bengio 2010: weights uniform with variance 2 / (fan_in + fan_out); biases 0."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(images))
