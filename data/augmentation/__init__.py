"""Operations on batches of training images, a different draw for each image.

An operation is a function of the images and of uniform random numbers, and keeps no generator: the
loader draws the numbers for every image of an epoch at once. An augmented image so depends on the
seed, the epoch and the image alone, not on the batch that it comes in, nor on the process or the
device that computes it, and an interrupted epoch can be taken up at any step.

Whatever the order in which they are asked for, operations run in the order of PLACES, and at the
same place in that of their names.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

# Where an operation stands: the last one is behind the normalisation, where 0 is the mean colour.
PLACES = ("scale", "crop", "flip", "policy", "colour", "normalised")


class Operation(Protocol):
    """What an image operation is; a class that names this one as its base inherits what is written here.

    `draws` is how many numbers in [0, 1) it wants for an image, `place` one of PLACES. An `alternating` one
    gets in every epoch the same numbers u, and in every other 1 - u.
    """

    place: ClassVar[str]
    draws: ClassVar[int]
    alternating: bool = False

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """What the numbers come to for each image of `shape` [C, H, W]: float32 [B, draws] -> [B, ...].

        It is asked for all images of an epoch at once, so that each step has some operators less.
        """
        return uniform

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        """The augmented images, of the same type and shape; the given ones stay as they are.

        images: uint8 [B, C, H, W], or normalised float32 behind the normalisation; params as `make_params` has them.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Both: the images, augmented by numbers float32 [B, draws]."""
        return self.transform(images, self.make_params(uniform, images.shape[1:]))

    def prepared(self, images: Tensor) -> "Operation":
        """This operation once it has seen all training images, uint8 [N, C, H, W]; few care."""
        return self


def in_order(operations: dict[str, Operation]) -> dict[str, Operation]:
    """Operations by name, in the order in which they run."""
    return dict(sorted(operations.items(), key=lambda item: (PLACES.index(item[1].place), item[0])))
