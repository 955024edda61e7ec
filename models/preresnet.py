"""Pre-activation ResNets and Wide ResNets.

He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027.
Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146: the same with wider
stages and dropout between the convolutions of a block.

In the first block of each stage, the shortcut also takes the activated input; it is a 1x1 convolution
without BN if shapes change (the paper's appendix, and fb.resnet.torch). A bottleneck block has its
stride in the 3x3 convolution, in the authors' code in the first 1x1; parameters are the same. The
paper's ablations are options: `activation_order` (fig. 4) and `shortcut` (fig. 2).
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.drop_block import DropBlock
from models.layers import (
    Attention,
    BlockSettings,
    Checkpointed,
    Head,
    block_settings,
    branch_end,
    initialize_he,
    require_size,
)

ActivationOrder = Literal[
    "original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation"
]
ShortcutKind = Literal[
    "identity", "constant_scaling", "exclusive_gating", "shortcut_only_gating", "convolution", "dropout"
]

# Fig. 4: the layers before the first convolution of a branch, after its last, and after the addition.
# All of them have BN and ReLU between two convolutions.
ORDERS: dict[ActivationOrder, tuple[str, str, str]] = {
    "original": ("", "BN", "ReLU"),
    "bn_after_addition": ("", "", "BN ReLU"),
    "relu_before_addition": ("", "BN ReLU", ""),
    "relu_only_preactivation": ("ReLU", "BN", ""),
    "full_preactivation": ("BN ReLU", "", ""),
}


def activation(layers: str, channels: int) -> nn.Sequential:
    """The layers named by an entry of ORDERS, which may be empty."""
    make = {"BN": lambda: nn.BatchNorm2d(channels), "ReLU": nn.ReLU}
    return nn.Sequential(*(make[layer]() for layer in layers.split()))


class Addition(nn.Module):
    """How a shortcut x and a residual branch r of the same shape are combined (fig. 2 and table 1).

    | kind                 |                                                                     |
    | -------------------- | ------------------------------------------------------------------- |
    | identity             | x + r                                                               |
    | constant_scaling     | x / 2 + r / 2                                                       |
    | exclusive_gating     | (1 - g) x + g r, with g the sigmoid of a 1x1 convolution of x       |
    | shortcut_only_gating | (1 - g) x + r                                                       |
    | convolution          | a 1x1 convolution of x, plus r                                      |
    | dropout              | x with half of its values set to zero, plus r                       |

    The biases of the gates start at -6, the best of the paper's values for exclusive gating.
    """

    def __init__(self, kind: ShortcutKind, channels: int):
        super().__init__()
        self.kind = kind
        if kind in ("exclusive_gating", "shortcut_only_gating"):
            self.gate = nn.Conv2d(channels, channels, 1)
        elif kind == "convolution":
            self.convolution = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        match self.kind:
            case "constant_scaling":
                return 0.5 * x + 0.5 * residual
            case "exclusive_gating":
                gate = self.gate(x).sigmoid()
                return (1 - gate) * x + gate * residual
            case "shortcut_only_gating":
                return (1 - self.gate(x).sigmoid()) * x + residual
            case "convolution":
                return self.convolution(x) + residual
            case "dropout":
                return F.dropout(x, 0.5, self.training) + residual
        return x + residual


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, 3x3; plus shortcut. [B, C, H, W] -> [B, width, H/s, W/s].

    With `expansion` 4: BN, ReLU, 1x1 reduce, BN, ReLU, 3x3, BN, ReLU, 1x1 expand; plus shortcut.
    [B, C, H, W] -> [B, 4*width, H/s, W/s]. For other orders see ORDERS. Dropout is applied before the
    second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        settings: BlockSettings,
        *,
        expansion: int,
        order: ActivationOrder,
        shortcut: ShortcutKind,
        attention: Attention | None,
        dropout: float,
    ):
        super().__init__()
        out_channels = expansion * width
        convolutions = (
            [
                nn.Conv2d(in_channels, width, 3, settings.stride, padding=1, bias=False),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            ]
            if expansion == 1
            else [
                nn.Conv2d(in_channels, width, 1, bias=False),
                nn.Conv2d(width, width, 3, settings.stride, padding=1, bias=False),
                nn.Conv2d(width, out_channels, 1, bias=False),
            ]
        )
        before, closing, after = ORDERS[order]
        self.before = activation(before, in_channels)
        self.activates_shortcut = settings.is_first
        *inner, last = convolutions
        self.residual = nn.Sequential(settings.with_drop_block(inner[0]))
        for position, convolution in enumerate([*map(settings.with_drop_block, inner[1:]), last]):
            self.residual.extend(activation("BN ReLU", width))
            if dropout and position == 0:
                self.residual.append(nn.Dropout(dropout))
            self.residual.append(convolution)
        self.residual.extend([*activation(closing, out_channels), *branch_end(out_channels, settings, attention)])
        same_shape = settings.stride == 1 and in_channels == out_channels
        self.shortcut = settings.with_drop_block(
            nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1, settings.stride, bias=False)
        )
        self.addition = Addition(shortcut if same_shape else "identity", out_channels)
        self.after = activation(after, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        shortcut = self.shortcut(activated if self.activates_shortcut else x)
        return self.after(self.addition(shortcut, self.residual(activated)))


class PreResNet(nn.Module):
    """A pre-activation residual network for small images; `widths` and `depths` have one entry per stage.

    | layer       | PreResNet-164           | Wide ResNet-28-10       | pre-activation ResNet-18 |
    | ----------- | ----------------------- | ----------------------- | ------------------------ |
    | stem        | [B, 16, 32, 32]         | [B, 16, 32, 32]         | [B, 64, 32, 32]          |
    | stages[0]   | [B, 64, 32, 32]         | [B, 160, 32, 32]        | [B, 64, 32, 32]          |
    | stages[1]   | [B, 128, 16, 16]        | [B, 320, 16, 16]        | [B, 128, 16, 16]         |
    | stages[2]   | [B, 256, 8, 8]          | [B, 640, 8, 8]          | [B, 256, 8, 8]           |
    | stages[3]   |                         |                         | [B, 512, 4, 4]           |
    | closing     | BN, ReLU                | BN, ReLU                | BN, ReLU                 |
    | head        | [B, K]                  | [B, K]                  | [B, K]                   |

    If blocks start with an activation, the stem is a bare convolution and the last block is followed by
    one more activation (`closing`). `block_attention` ends each residual branch, `stage_attention`
    each stage but the last (models/attention.py). `gradient_checkpointing` recomputes the activations within
    blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        block: Literal["basic", "bottleneck"],
        stem_width: int,
        widths: Sequence[int],
        depths: Sequence[int],
        shortcut: ShortcutKind,
        activation_order: ActivationOrder,
        gradient_checkpointing: bool = False,
        block_attention: Attention | None = None,
        stage_attention: Attention | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        shake_drop: float = 0.0,
        drop_block: DropBlock | None = None,
    ):
        super().__init__()
        expansion = {"basic": 1, "bottleneck": 4}[block]
        before, _, _ = ORDERS[activation_order]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False),
            *activation("" if before else "BN ReLU", stem_width),
        )
        self.stages = nn.Sequential(*(Checkpointed(enabled=gradient_checkpointing) for _ in widths))
        channels = stem_width
        for settings in block_settings(depths, drop_path=drop_path, shake_drop=shake_drop, drop_block=drop_block):
            width = widths[settings.stage]
            self.stages[settings.stage].append(
                PreActivationBlock(
                    channels,
                    width,
                    settings,
                    expansion=expansion,
                    order=activation_order,
                    shortcut=shortcut,
                    attention=block_attention,
                    dropout=dropout,
                )
            )
            channels = expansion * width
        if stage_attention:
            for index, stage in enumerate(self.stages[:-1]):
                stage.append(stage_attention(expansion * widths[index], 32 // 2**index))
        self.closing = activation(before, channels)
        self.head = Head(channels, num_classes)
        initialize_he(self)
        for module in self.modules():
            if isinstance(module, Addition) and hasattr(module, "gate"):
                nn.init.constant_(module.gate.bias, -6.0)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.closing(self.stages(self.stem(images))))
