"""The network applied densely, over an image that is larger than those it was trained on.

Simonyan and Zisserman 2014, arXiv 1409.1556, sec. 3.2: the head averages over all places of the larger map, and the
scores over the image and its mirror image. The image is enlarged as crops are in training, by padding.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def dense(images: Tensor, *, padding: int) -> Iterator[tuple[float, Tensor]]:
    """Two views, larger by `padding` pixels on each side, which reflect the image at its border."""
    yield from flip(F.pad(images, (padding,) * 4, mode="reflect"))
