"""Layers that three or more families share unchanged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.drop_block import DropBlock
from models.shake_drop import ShakeDrop

SMALLEST_INPUT = 32

# Builds an attention module from (channels, side of the maps for a 32x32 image).
Attention = Callable[[int, int], nn.Module]


def require_size(images: Tensor, smallest: int = SMALLEST_INPUT) -> None:
    """Raise ValueError, naming the smallest size, for images that are too small for the network."""
    height, width = images.shape[-2:]
    if height < smallest or width < smallest:
        raise ValueError(f"images of {height}x{width} pixels are too small: at least {smallest}x{smallest} are needed")


class Head(nn.Module):
    """Global average pooling, dropout, fully connected layer. [B, C, H, W] -> [B, K]."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x.mean((2, 3))))


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 on the CPU, even under bfloat16 autocast."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def depthwise_conv(channels: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A depthwise convolution without bias. [B, C, H, W] -> [B, C, H', W'].

    In bfloat16, torch's CPU kernels (seen in 2.14) are 20 to 300 times slower than in float32 for the gradient of
    the input with a stride above 1, and up to four times slower for the weight gradient of large kernels.
    """
    kind = nn.Conv2d if (kernel, stride) == (3, 1) else Float32Conv2d
    return kind(channels, channels, kernel, stride, padding, groups=channels, bias=False)


class ConvUnit(nn.Sequential):
    """Convolution without bias, BN, ReLU. [B, C, H, W] -> [B, out_channels, H/s, W/s].

    Same padding, unless `padding` is given.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        eps: float = 1e-5,
    ):
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        same = (height // 2, width // 2)
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                (height, width),
                stride,
                padding=same if padding is None else padding,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels, eps=eps),
            nn.ReLU(),
        )


def chain(in_channels: int, *units: tuple, eps: float = 1e-5) -> nn.Sequential:
    """A sequence of ConvUnits, each (width, kernel) or (width, kernel, stride); those of stride 2 are unpadded."""
    modules = nn.Sequential()
    for width, kernel, *stride in units:
        padding = 0 if stride and stride[0] > 1 else None
        modules.append(ConvUnit(in_channels, width, kernel, *stride, padding=padding, eps=eps))
        in_channels = width
    return modules


class Concatenation(nn.Module):
    """Parallel branches on the same input, with their outputs concatenated along the channels."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def attended(attention: Attention | None, size: int, *modules: tuple[nn.Module, int]) -> nn.Sequential:
    """A sequence of modules, each given with its number of output channels and followed by attention, if any."""
    row = nn.Sequential()
    for module, channels in modules:
        row.append(module)
        if attention:
            row.append(attention(channels, size))
    return row


class Checkpointed(nn.Sequential):
    """A sequence of modules with gradient checkpointing: if `enabled`, the backward pass recomputes their activations.

    Chen et al. 2016, arXiv 1604.06174. The result is bit-identical: dropout repeats its masks, and batch
    normalisation updates its running statistics once per batch.
    """

    def __init__(self, *modules: nn.Module, enabled: bool):
        super().__init__(*modules)
        self.enabled = enabled

    def forward(self, x: Tensor) -> Tensor:
        if not (self.enabled and self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for module in self:
            contexts = partial(_keep_statistics_on_repetition, module)
            x = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
        return x


def _keep_statistics_on_repetition(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of the forward pass and of its recomputation, which does not update running statistics."""

    @contextmanager
    def still() -> Iterator[None]:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)

    return nullcontext(), still()


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, drop a residual branch per image.

    Kept branches are scaled up in training, so that evaluation needs no scaling; the paper draws once per
    batch and scales down in evaluation. [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.rate):
            return x
        keep = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """What a residual block's position decides: stage, stride, output size for a 32x32 image, and drop rates."""

    stage: int
    is_first: bool
    stride: int
    size: int
    drop_path: float = 0.0
    shake_drop: float = 0.0
    drop_block: DropBlock | None = None

    def with_drop_block(self, module: nn.Module) -> nn.Module:
        """The module, followed by DropBlock in the stages that use it."""
        return nn.Sequential(module, self.drop_block) if self.drop_block else module


def block_settings(
    depths: Sequence[int], *, drop_path: float = 0.0, shake_drop: float = 0.0, drop_block: DropBlock | None = None
) -> Iterator[BlockSettings]:
    """The parameters of all blocks, `depths[i]` in stage i; the first block of each stage but the first has stride 2.

    The rates of stochastic depth and of ShakeDrop increase linearly with depth to the given ones (Huang et al.
    2016, sec. 3). DropBlock is used in the last stage, and at a quarter of its rate in the one before it.
    """
    last = len(depths) - 1
    drop_blocks = {last - 1: drop_block.quarter(), last: drop_block} if drop_block else {}
    number = 0
    for stage, depth in enumerate(depths):
        for position in range(depth):
            number += 1
            way = number / sum(depths)
            yield BlockSettings(
                stage=stage,
                is_first=position == 0,
                stride=2 if stage > 0 and position == 0 else 1,
                size=32 // 2**stage,
                drop_path=drop_path * way,
                shake_drop=shake_drop * way,
                drop_block=drop_blocks.get(stage),
            )


def branch_end(channels: int, settings: BlockSettings, attention: Attention | None) -> list[nn.Module]:
    """What ends a branch: DropBlock, attention (Hu et al. 2017, arXiv 1709.01507, fig. 3), drop path, shake."""
    return [
        *([settings.drop_block] if settings.drop_block else []),
        *([attention(channels, settings.size)] if attention else []),
        *([DropPath(settings.drop_path)] if settings.drop_path else []),
        *([ShakeDrop(settings.shake_drop)] if settings.shake_drop else []),
    ]


def initialize_he(network: nn.Module) -> None:
    """Initialisation of He et al. 2015 (arXiv 1502.01852, sec. 2.2) in its fan-out form.

    Convolutions: normal with std sqrt(2 / (k*k*out_channels)), biases 0. Batch normalisation: scale
    1, shift 0. The last layer (`Head`): normal with std 0.01 (Goyal et al. 2017, arXiv 1706.02677,
    sec. 5.1), for an initial loss of ln K. Other fully connected layers keep PyTorch's weights. All
    biases start at 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Head):
            nn.init.normal_(module.linear.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
