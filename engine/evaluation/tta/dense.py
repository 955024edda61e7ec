"""Dense evaluation: the network applied to an image that is larger than those it was trained on.

Simonyan and Zisserman 2014, arXiv 1409.1556, sec. 3.2: the head averages over all positions of the larger feature map,
and the scores are averaged over the image and its mirror image. The image is enlarged by padding, as in training.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from engine.evaluation.tta.flip import flip


def dense(images: Tensor, *, padding: int) -> Iterator[tuple[float, Tensor]]:
    """Yield two views, padded by reflection with `padding` pixels on each side."""
    yield from flip(F.pad(images, (padding,) * 4, mode="reflect"))
