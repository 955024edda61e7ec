"""Airbench: the network of the speed records on CIFAR-10.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv 2404.00498, sec. 3 and appendix A,
derived from the ResNet-9 of Page, "How to Train Your ResNet", 2018-2019, myrtle.ai/learn/how-to-train-your-resnet.

The bias of the whitening layer is trained throughout, in the paper for three epochs only; this makes training a few
per cent slower. `depth` 3, which adds a shortcut, is the paper's larger network, for 96 %.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import require_size

CHUNK = 500  # images whose patches are processed at once


class Conv(nn.Conv2d):
    """3x3 convolution without bias. [B, C, H, W] -> [B, out_channels, H, W].

    The first `in_channels` filters are initialised to the identity (sec. 3.2).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:in_channels])


class Norm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift, no scale, and a high momentum, since runs have few steps."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Block(nn.Module):
    """3x3 to `out_channels`, max pool 2, norm, GELU, then `depth` - 1 times 3x3, norm, GELU.

    With three or more convolutions, a shortcut skips all but the first; it is added before the last GELU.
    [B, C, H, W] -> [B, out_channels, H/2, W/2].
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int):
        super().__init__()
        self.first = nn.Sequential(Conv(in_channels, out_channels), nn.MaxPool2d(2), Norm(out_channels), nn.GELU())
        self.rest = nn.Sequential(Conv(out_channels, out_channels), Norm(out_channels))
        for _ in range(depth - 2):
            self.rest.extend([nn.GELU(), Conv(out_channels, out_channels), Norm(out_channels)])
        self.has_shortcut = depth > 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.gelu(x + self.rest(x) if self.has_shortcut else self.rest(x))


class Airbench(nn.Module):
    """A layer that whitens patches of 2x2 pixels, then three blocks.

    | layer                          | output for a 32x32 image |
    | ------------------------------ | ------------------------ |
    | stem: whitening 2x2, GELU      | [B, 24, 31, 31]          |
    | stages[0]                      | [B, widths[0], 15, 15]   |
    | stages[1]                      | [B, widths[1], 7, 7]     |
    | stages[2]                      | [B, widths[2], 3, 3]     |
    | global max pool, linear, x 1/9 | [B, K]                   |

    The whitening filters are not trained. `prepare` computes them from training images; until then they are random.
    `dropout` is applied before the last layer.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int = 3, widths: Sequence[int], depth: int, dropout: float = 0.0
    ):
        super().__init__()
        channels = 2 * 4 * in_channels  # each principal component of a patch, with both signs
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 2), nn.GELU())
        self.stem[0].weight.requires_grad_(False)
        self.stages = nn.Sequential()
        for width in widths:
            self.stages.append(Block(channels, width, depth))
            channels = width
        last = nn.Linear(channels, num_classes, bias=False)
        self.head = nn.Sequential(nn.Dropout(dropout), last)

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the whitening filters (sec. 3.2): the principal components of the patches, at unit variance.

        images: normalised training images, float32 [N, C, H, W], on the network's device. Matrix products
        use the float32 precision that is set there.
        """
        channels = images.shape[1]
        moments = torch.zeros(4 * channels, 4 * channels, dtype=torch.float64)  # on the CPU: not every GPU has float64
        for chunk in images.split(CHUNK):
            patches = F.unfold(chunk, 2).transpose(0, 1).flatten(1)  # [4C, all patches]
            moments += (patches @ patches.T).cpu()
        count = len(images) * (images.shape[2] - 1) * (images.shape[3] - 1)
        variances, components = torch.linalg.eigh(moments / count)
        filters = (components / (variances + 5e-4).sqrt()).T.reshape(-1, channels, 2, 2)
        self.stem[0].weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(self.stem(images)).amax((2, 3))) / 9
