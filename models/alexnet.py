"""AlexNet, as commonly used on CIFAR and as in its paper.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NeurIPS 2012; `AlexNet` has the widths of the first author's one-tower network (Krizhevsky
2014, arXiv 1404.5997).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import require_size

PIXEL_DEVIATION = 64  # standard deviation of pixels between 0 and 255


class AlexNet(nn.Module):
    """The common CIFAR form: five convolutions and one fully connected layer, all with biases, no normalisation.

    | layer                                          | output for a 32x32 image |
    | ---------------------------------------------- | ------------------------ |
    | stages[0]: 11x11 stride 4, ReLU, max pool 2    | [B, 64, 4, 4]            |
    | stages[1]: 5x5, ReLU, max pool 2               | [B, 192, 2, 2]           |
    | stages[2]: 3x3 three times, ReLU, max pool 2   | [B, 256, 1, 1]           |
    | head                                           | [B, K]                   |

    `dropout` is applied before the last layer. PyTorch's default initialisation.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, dropout: float = 0.0):
        super().__init__()
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_channels, 64, 11, 4, padding=5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(
                nn.Conv2d(192, 384, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(256, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        return self.head(self.stages(images).mean((2, 3)))


class AlexNet2012(nn.Module):
    """The eight layers of the paper on 32x32 images: local response normalisation, overlapping pooling, two towers.

    | layer                                              | output for a 32x32 image |
    | -------------------------------------------------- | ------------------------ |
    | stages[0]: 3x3, ReLU, LRN, max pool 3 stride 2     | [B, 96, 15, 15]          |
    | stages[1]: 5x5 in 2 groups, ReLU, LRN, max pool    | [B, 256, 7, 7]           |
    | stages[2]: 3x3 three times, ReLU, max pool         | [B, 256, 3, 3]           |
    | head: 4096, 4096, num_classes                      | [B, K]                   |

    A 3x3 convolution of stride 1 replaces the 11x11 of stride 4, which would leave nothing to pool
    on a 32x32 image. Widths, groups (the two towers), pooling and normalisation are the paper's
    (sec. 3). The paper subtracts the mean of its pixels but does not divide by their standard
    deviation (sec. 2), and its initial weights, N(0, 0.01), suit that scale. Normalised images are
    therefore multiplied by PIXEL_DEVIATION; otherwise activations vanish.
    `dropout` is applied before the first two fully connected layers (sec. 4.2; the paper has 0.5).
    Maps of larger images are average-pooled to 3x3 before the head.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, dropout: float = 0.0):
        super().__init__()

        def normalize() -> nn.LocalResponseNorm:
            # Sec. 3.3 with k=2, n=5, alpha=1e-4, beta=0.75; PyTorch divides alpha by n.
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_channels, 96, 3, padding=1), nn.ReLU(), normalize(), nn.MaxPool2d(3, 2)),
            nn.Sequential(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), normalize(), nn.MaxPool2d(3, 2)),
            nn.Sequential(
                nn.Conv2d(256, 384, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(384, 384, 3, padding=1, groups=2),
                nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1, groups=2),
                nn.ReLU(),
                nn.MaxPool2d(3, 2),
            ),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(256 * 3 * 3, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )
        self.initialize()

    def initialize(self) -> None:
        """Sec. 5: weights N(0, 0.01); biases 1 in convolutions 2, 4 and 5 and the hidden layers, 0 elsewhere."""
        convolutions = [module for module in self.stages.modules() if isinstance(module, nn.Conv2d)]
        linears = [module for module in self.head if isinstance(module, nn.Linear)]
        with_one = [convolutions[1], convolutions[3], convolutions[4], *linears[:-1]]
        for module in [*convolutions, *linears]:
            nn.init.normal_(module.weight, std=0.01)
            nn.init.constant_(module.bias, 1.0 if module in with_one else 0.0)

    def forward(self, images: Tensor) -> Tensor:
        require_size(images)
        x = self.stages(PIXEL_DEVIATION * images)
        if x.shape[-2:] != (3, 3):  # larger images
            x = F.adaptive_avg_pool2d(x, 3)
        return self.head(x)
