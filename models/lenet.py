"""LeNet-5.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), 1998, sec. II-B.

On CIFAR it is used with ReLU and max pooling. `activation="tanh"` and `pooling="average"` are close to
the original. As in other reimplementations, these are missing: trainable coefficients in the
subsampling, sparse connections into the third layer, and radial basis functions as the output.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import require_size


class LeNet5(nn.Module):
    """LeNet-5.

    | layer                              | output for a 32x32 image |
    | ---------------------------------- | ------------------------ |
    | stages[0]: 5x5, activation, pool   | [B, 6, 14, 14]           |
    | stages[1]: 5x5, activation, pool   | [B, 16, 5, 5]            |
    | head: 120, 84, num_classes         | [B, K]                   |

    Maps of larger images are average-pooled to 5x5 before the head. `dropout` follows both hidden layers
    of the head; the paper predates dropout.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        activation: Literal["relu", "tanh"],
        pooling: Literal["max", "average"],
        dropout: float = 0.0,
    ):
        super().__init__()
        act = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
        pool = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[pooling]
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_channels, 6, 5), act(), pool(2)),
            nn.Sequential(nn.Conv2d(6, 16, 5), act(), pool(2)),
        )
        self.head = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            act(),
            nn.Dropout(dropout),
            nn.Linear(120, 84),
            act(),
            nn.Dropout(dropout),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        x = self.stages(images)
        if x.shape[-2:] != (5, 5):
            x = F.adaptive_avg_pool2d(x, 5)
        return self.head(x.flatten(1))
