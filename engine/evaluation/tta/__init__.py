"""Test-time augmentation: logits averaged over several views of an image.

An augmentation is a function of normalised images, float32 [B, C, H, W], that yields (weight, view) pairs; the weights
sum to 1.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

Views = Callable[[Tensor], Iterator[tuple[float, Tensor]]]


def as_it_is(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    """No augmentation: the only view is the image itself."""
    yield 1.0, images


def mean_logits(model: nn.Module, images: Tensor, views: Views) -> Tensor:
    """The weighted mean of the logits of all views, float32 [B, K]."""
    return sum(weight * model(view).float() for weight, view in views(images))
