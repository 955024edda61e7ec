"""Batched image operations beside torchvision's, image by image, on the same draws."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from data.augmentation.random_crop import RandomCrop
from data.augmentation.random_flip import RandomFlip


def batch(count: int = 64, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Random images of which no two places look alike."""
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(("padding", "height", "width", "channels"), [(4, 32, 32, 3), (0, 32, 32, 3), (7, 40, 33, 1)])
def test_crop_equals_torchvision_image_by_image(padding, height, width, channels):
    images, uniform = batch(64, channels, height, width), torch.rand(64, 2)
    uniform[0], uniform[1] = 0.0, 1 - 2**-24  # the first corner and the last
    found = RandomCrop(padding)(images, uniform)
    for image, (u, v), result in zip(images, uniform.tolist(), found, strict=True):
        top, left = int(u * (2 * padding + 1)), int(v * (2 * padding + 1))
        assert torch.equal(result, VF.crop(VF.pad(image, padding), top, left, height, width))


def test_crop_reaches_every_place_equally_often():
    """81 corners; the expected count is 100 each, and chi-square of 80 degrees is below 140 but once in 30,000."""
    marked = torch.zeros(8100, 1, 32, 32, dtype=torch.uint8)
    marked[:, :, 16, 16] = 1
    found = RandomCrop(4)(marked, torch.rand(8100, 2, generator=torch.Generator().manual_seed(0)))
    counts = found.sum(0).flatten().float()
    assert counts.sum() == 8100
    reached = counts[counts > 0]
    assert len(reached) == 81
    assert ((reached - 100) ** 2 / 100).sum() < 140


def test_crop_is_torchvisions_distribution():
    """The set of results over all draws is that of torchvision's own random crop."""
    image = batch(1, 1, 8, 8)
    corners = torch.cartesian_prod(torch.arange(3), torch.arange(3)) / 3 + 0.1
    ours = {tuple(crop.flatten().tolist()) for crop in RandomCrop(1)(image.expand(9, -1, -1, -1), corners)}
    torch.manual_seed(0)
    transform = v2.RandomCrop(8, padding=1)
    assert ours == {tuple(transform(image[0]).flatten().tolist()) for _ in range(200)}


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_flip_equals_torchvision_image_by_image(probability):
    images, uniform = batch(), torch.rand(64, 1)
    found = RandomFlip(probability)(images, uniform)
    for image, (u,), result in zip(images, uniform.tolist(), found, strict=True):
        assert torch.equal(result, VF.horizontal_flip(image) if u < probability else image)


@pytest.mark.parametrize("operation", [RandomCrop(4), RandomFlip(0.5)], ids=lambda operation: type(operation).__name__)
def test_an_operation_leaves_its_input_alone(operation):
    images = batch()
    before = images.clone()
    operation(images, torch.rand(64, operation.draws))
    assert torch.equal(images, before)
