"""The image and its horizontal mirror image.

Simonyan and Zisserman 2014, arXiv 1409.1556, sec. 3.2, and most papers since.
"""

from collections.abc import Iterator

from torch import Tensor


def flip(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield two views of equal weight."""
    yield 0.5, images
    yield 0.5, images.flip(3)
