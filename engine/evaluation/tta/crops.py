"""Crops of the four corners and the centre of a padded image, and their mirror images.

Krizhevsky et al. 2012, NeurIPS, sec. 4.1: ten crops. The paper crops photographs that are larger than the network's
input; CIFAR's images are padded instead, as in training.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def crops(images: Tensor, *, padding: int, mirrored: bool) -> Iterator[tuple[float, Tensor]]:
    """Yield five views of the original size, or ten if `mirrored`, of equal weight. The padding is by reflection."""
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    for top, left in corners_and_centre(2 * padding):
        view = padded[:, :, top : top + height, left : left + width]
        if mirrored:
            yield from ((weight / 5, image) for weight, image in flip(view))
        else:
            yield 1 / 5, view


def corners_and_centre(spare: int) -> list[tuple[int, int]]:
    """(top, left) of five crops of an image that is `spare` pixels higher and wider than they are."""
    return [(0, 0), (0, spare), (spare, 0), (spare, spare), (spare // 2, spare // 2)]
