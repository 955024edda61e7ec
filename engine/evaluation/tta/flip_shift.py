"""The image, the image shifted by some pixels towards the upper left and the lower right, and all mirrored.

Jordan 2024, arXiv 2404.00498, appendix A: the form in which the speed records on CIFAR-10 are counted.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def flip_shift(images: Tensor, *, pixels: int) -> Iterator[tuple[float, Tensor]]:
    """Six views: half of the weight lies on the image and its mirror image, a quarter on each shifted pair.

    What is shifted in reflects the image at its border.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    shifted = [padded[:, :, corner : corner + height, corner : corner + width] for corner in (0, 2 * pixels)]
    for share, place in ((0.5, images), (0.25, shifted[0]), (0.25, shifted[1])):
        for weight, view in flip(place):
            yield share * weight, view
