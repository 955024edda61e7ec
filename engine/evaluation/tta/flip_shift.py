"""The image, the image shifted to the upper left and to the lower right, and their mirror images.

Jordan 2024, arXiv 2404.00498, appendix A: the evaluation used for speed records on CIFAR-10.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def flip_shift(images: Tensor, *, pixels: int) -> Iterator[tuple[float, Tensor]]:
    """Yield six views: the image and its mirror image weigh 1/2 together, each shifted pair 1/4.

    Shifted views are padded by reflection.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    shifted = [padded[:, :, corner : corner + height, corner : corner + width] for corner in (0, 2 * pixels)]
    for share, source in ((0.5, images), (0.25, shifted[0]), (0.25, shifted[1])):
        for weight, view in flip(source):
            yield share * weight, view
