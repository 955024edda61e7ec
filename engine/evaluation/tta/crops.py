"""The four corners and the centre of an image that has been enlarged, and their mirror images.

Krizhevsky et al. 2012, NeurIPS, sec. 4.1: ten crops. Where the paper crops photographs that are larger than the
network's input, CIFAR's are padded, as they are in training.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def crops(images: Tensor, *, padding: int, mirrored: bool) -> Iterator[tuple[float, Tensor]]:
    """Five views of the images' own size or, mirrored as well, ten, of equal weight.

    What is padded reflects the image at its border.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    for top, left in corners_and_centre(2 * padding):
        view = padded[:, :, top : top + height, left : left + width]
        if mirrored:
            yield from ((weight / 5, image) for weight, image in flip(view))
        else:
            yield 1 / 5, view


def corners_and_centre(spare: int) -> list[tuple[int, int]]:
    """Top and left of five crops of an image that is larger than they are by so many pixels each way."""
    return [(0, 0), (0, spare), (spare, 0), (spare, spare), (spare // 2, spare // 2)]
