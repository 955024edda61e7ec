"""Augmentation of batches of training images, with different random numbers for each image.

An operation is a function of images and uniform random numbers; it has no generator. The loader draws
the numbers for all images of an epoch at once, so that an augmented image depends only on the seed,
the epoch and the image, not on its batch, the process or the device, and an interrupted epoch can be
resumed at any step.

Operations always run in the order of PHASES, and within a phase in alphabetical order.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

# The order of operations. The last phase is after normalisation, where 0 is the mean colour.
PHASES = ("scale", "crop", "flip", "policy", "colour", "normalised")


class Operation(Protocol):
    """The protocol of an image operation, with defaults for classes that inherit from it.

    `draws` is the number of random numbers in [0, 1) per image, `phase` one of PHASES. An `alternating`
    operation gets the same numbers u in even epochs, and 1 - u in odd ones.
    """

    phase: ClassVar[str]
    draws: ClassVar[int]
    alternating: bool = False

    def make_params(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """The parameters for images of `shape` [C, H, W] from random numbers: float32 [B, draws] -> [B, ...].

        It is called once per epoch for all images, which saves operators in each step.
        """
        return uniform

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        """The augmented images, of the same type and shape; the input is not modified.

        images: uint8 [B, C, H, W], or float32 after normalisation; params: from `make_params`.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment images with random numbers float32 [B, draws]."""
        return self.transform(images, self.make_params(uniform, images.shape[1:]))

    def prepared(self, images: Tensor) -> "Operation":
        """The operation fitted to all training images, uint8 [N, C, H, W]; most return themselves."""
        return self


def in_order(operations: dict[str, Operation]) -> dict[str, Operation]:
    """The operations by name, in the order in which they run."""
    return dict(sorted(operations.items(), key=lambda item: (PHASES.index(item[1].phase), item[0])))
