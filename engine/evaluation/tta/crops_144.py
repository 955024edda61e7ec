"""Crops at four scales, 144 of an image.

Szegedy et al. 2014, arXiv 1409.4842, sec. 7: the image at four sizes; from each the squares at both ends and in the
middle of its longer side; from each square its four corners, its centre and the whole square; each with its mirror
image. The three squares of a square image coincide, which leaves 48 views.
"""

from collections.abc import Iterator

from torch import Tensor

from engine.evaluation.tta.crops import corners_and_centre
from engine.evaluation.tta.flip import flip
from engine.evaluation.tta.multi_scale import resized

SCALES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)  # shorter side of the image / side of the crops


def crops_144(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield square views of equal weight, as large as the images' shorter side."""
    shorter = min(images.shape[2:])
    for scale in SCALES:
        at_scale = resized(images, [round(scale * length) for length in images.shape[2:]])
        side = min(at_scale.shape[2:])
        squares = squares_of(at_scale, side)
        for square in squares:
            weight = 1 / len(SCALES) / len(squares) / 6
            for top, left in corners_and_centre(side - shorter):
                yield from weighted(weight, flip(square[:, :, top : top + shorter, left : left + shorter]))
            yield from weighted(weight, flip(resized(square, [shorter, shorter])))


def squares_of(images: Tensor, side: int) -> list[Tensor]:
    """The squares at both ends and in the middle of the longer side; just one for square images."""
    spare_height, spare_width = (length - side for length in images.shape[2:])
    if not (spare_height or spare_width):
        return [images]
    offsets = [(spare_height * part // 2, spare_width * part // 2) for part in (0, 1, 2)]
    return [images[:, :, top : top + side, left : left + side] for top, left in offsets]


def weighted(factor: float, views: Iterator[tuple[float, Tensor]]) -> Iterator[tuple[float, Tensor]]:
    """Views with their weights multiplied by `factor`."""
    yield from ((factor * weight, view) for weight, view in views)
