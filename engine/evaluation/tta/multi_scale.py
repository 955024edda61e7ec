"""The image and its mirror image at several sizes.

He et al. 2015, arXiv 1512.03385, sec. 3.4: a network with global pooling takes images of any size; its scores are
averaged over several sizes.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def multi_scale(images: Tensor, *, scales: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """Yield two views for each scale (a factor of at least 1 on the image size), all of equal weight."""
    for scale in scales:
        for weight, view in flip(resized(images, [round(scale * length) for length in images.shape[2:]])):
            yield weight / len(scales), view


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images [B, C, H, W] resized to (height, width) by bicubic interpolation."""
    if list(images.shape[2:]) == list(size):
        return images
    return F.interpolate(images, tuple(size), mode="bicubic", align_corners=False, antialias=True)
