"""The image and its mirror image at several sizes.

He et al. 2015, arXiv 1512.03385, sec. 3.4: a network whose head pools over all places takes an image of any size, and
its scores are averaged over some.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def multi_scale(images: Tensor, *, scales: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """Two views for each scale, a factor of at least 1 on the size of the images; all of equal weight."""
    for scale in scales:
        for weight, view in flip(resized(images, [round(scale * length) for length in images.shape[2:]])):
            yield weight / len(scales), view


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images [B, C, H, W] at a height and a width, by bicubic interpolation."""
    if list(images.shape[2:]) == list(size):
        return images
    return F.interpolate(images, tuple(size), mode="bicubic", align_corners=False, antialias=True)
