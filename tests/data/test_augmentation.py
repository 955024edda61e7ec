"""Batched image operations beside torchvision's, image by image, on the same draws."""

import dataclasses
from statistics import NormalDist
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given as given_numbers
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from data.augmentation import PHASES, Operation, in_order
from data.augmentation import __main__ as sheet
from data.augmentation.color_jitter import ColorJitter
from data.augmentation.cutout import Cutout
from data.augmentation.pca_color import PCAColor, color_covariance
from data.augmentation.random_crop import RandomCrop
from data.augmentation.random_erasing import RandomErasing
from data.augmentation.random_flip import RandomFlip
from data.augmentation.scale_jitter import ScaleJitter
from data.rectangle import rectangle
from engine.build import objects
from engine.run.errors import CommandError
from tests.support.runs import composed, option_names


def batch(count: int = 64, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Random images of which no two places look alike."""
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize(("padding", "height", "width", "channels"), [(4, 32, 32, 3), (0, 32, 32, 3), (7, 40, 33, 1)])
def test_crop_equals_torchvision_image_by_image(padding, height, width, channels, mode):
    images, uniform = batch(64, channels, height, width), torch.rand(64, 2)
    uniform[0], uniform[1] = 0.0, 1 - 2**-24  # the first corner and the last
    found = RandomCrop(padding, mode)(images, uniform)
    for image, (u, v), result in zip(images, uniform.tolist(), found, strict=True):
        top, left = int(u * (2 * padding + 1)), int(v * (2 * padding + 1))
        assert torch.equal(result, VF.crop(VF.pad(image, padding, padding_mode=mode), top, left, height, width))


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


# Every image operation that conf/ offers


def everything() -> dict[str, Operation]:
    """The operations by name, with the settings of their files, prepared on random images."""
    names = option_names("regularization")
    operations = {
        name: objects.instantiate(operation)
        for name, operation in composed(f"regularization=[{','.join(names)}]").augmentation.items()
    }
    return operations | {"noise": dataclasses.replace(operations["random_erasing"], fill="noise")}


EVERYTHING = everything()


def given(operation: Operation, count: int = 16, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Images as an operation wants them: uint8, or normalised."""
    images = batch(count, channels, height, width)
    return (images.float() - 128) / 64 if operation.phase == "normalised" else images


@pytest.mark.parametrize("operation", EVERYTHING.values(), ids=EVERYTHING)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 40, 33), (1, 28, 36)], ids=str)
def test_an_operation_keeps_shape_type_and_its_input(operation, shape):
    images = given(operation, 16, *shape)
    before = images.clone()
    operation = operation.prepared(batch(100, *shape))
    uniform = torch.rand(16, operation.draws)
    uniform[0], uniform[1] = 0.0, 1 - 2**-24  # the ends of the range
    found = operation(images, uniform)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert found.isfinite().all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("operation", EVERYTHING.values(), ids=EVERYTHING)
def test_an_operation_draws_anew_for_each_image_and_looks_at_no_other(operation):
    operation = operation.prepared(batch(100))
    images = given(operation, 1).expand(32, -1, -1, -1).contiguous()
    uniform = torch.rand(32, operation.draws, generator=torch.Generator().manual_seed(0))
    found = operation(images, uniform)
    assert (found != found[:1]).flatten(1).any(1).any()
    torch.testing.assert_close(found[5:9], operation(images[5:9], uniform[5:9]), rtol=0, atol=0)


@pytest.mark.parametrize("operation", EVERYTHING.values(), ids=EVERYTHING)
def test_an_operation_never_waits_for_the_device(operation):
    """On the meta device there are shapes but no numbers: whatever wants to look at one fails."""
    operation = operation.prepared(batch(100))
    images = given(operation).to("meta")
    assert operation(images, torch.rand(16, operation.draws).to("meta")).shape == images.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        images[images > 0]


class Sent(TorchDispatchMode):
    """Lists what is copied from main memory to a device."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        if function.overloadpacket.__name__ in ("_to_copy", "copy_"):
            source = arguments[1] if len(arguments) > 1 else arguments[0]
            if source.device.type == "cpu" and found.device.type != "cpu":
                self.shapes.append(source.shape)
        return found


@pytest.mark.parametrize("operation", EVERYTHING.values(), ids=EVERYTHING)
def test_a_batch_has_nothing_sent_to_the_device(operation):
    """What an operation knows, its tables and axes, is there from the second batch on."""
    images = given(operation).to("meta")
    params = operation.prepared(batch(100)).make_params(
        torch.rand(16, operation.draws, device="meta"), images.shape[1:]
    )
    operation.transform(images, params)
    with Sent() as sent:
        operation.transform(images, params)
        assert not sent.shapes
        torch.zeros(3).to("meta")
    assert sent.shapes == [(3,)]


@pytest.mark.parametrize("operation", EVERYTHING.values(), ids=EVERYTHING)
def test_an_operation_computes_the_same_in_channels_last(operation):
    operation = operation.prepared(batch(100))
    images, uniform = given(operation), torch.rand(16, operation.draws)
    found = operation(images.contiguous(memory_format=torch.channels_last), uniform)
    assert torch.equal(found, operation(images, uniform))


def test_operations_run_in_their_order_whatever_the_command_line_says():
    names = ["random_erasing", "trivial_augment", "cutout", "pca_color", "scale_jitter", "color_jitter"]
    for given_order in (names, names[::-1]):
        config = composed(f"regularization=[{','.join(given_order)}]")
        operations = {name: objects.instantiate(operation) for name, operation in config.augmentation.items()}
        ordered = list(in_order(operations))
        assert ordered == [
            *("scale_jitter", "crop", "flip", "trivial_augment"),
            *("color_jitter", "pca_color", "cutout", "random_erasing"),
        ]


# Cutout


@pytest.mark.parametrize("length", [1, 8, 15, 16])
def test_cutout_is_the_papers_clipped_square_about_every_centre(length):
    height, width = 18, 23
    centres = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    uniform = (centres + 0.5) / torch.tensor([height, width])
    found = Cutout(length=length)(torch.ones(len(centres), 2, height, width), uniform)
    expected = torch.ones_like(found)
    for image, (row, column) in zip(expected, centres.tolist(), strict=True):
        top, left = row - length // 2, column - length // 2
        image[:, max(top, 0) : max(top + length, 0), max(left, 0) : max(left + length, 0)] = 0
    assert torch.equal(found, expected)


@given_numbers(
    length=st.integers(1, 60), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32)
)
def test_cutout_hides_no_more_than_its_square(length, height, width, seed):
    uniform = torch.rand(8, 2, generator=torch.Generator().manual_seed(seed))
    images = torch.randn(8, 3, height, width, generator=torch.Generator().manual_seed(seed)) + 10
    found = Cutout(length=length)(images, uniform)
    hidden = (found == 0).all(1)
    assert hidden.flatten(1).sum(1).max() <= length**2
    assert hidden.flatten(1).sum(1).min() >= 1  # the centre lies in the image
    assert torch.equal(found, images * ~hidden[:, None])


# Random erasing


ERASING = RandomErasing(probability=0.5, smallest=0.02, largest=0.4, aspect=0.3, fill="mean")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 20), (5, 64)])
def test_random_erasing_equals_torchvision_on_the_same_numbers(height, width):
    """The long and narrow images need several attempts, and some use up all ten."""
    theirs = v2.RandomErasing(0.5, (0.02, 0.4), (0.3, 1 / 0.3))
    uniform = torch.rand(500, ERASING.draws, generator=torch.Generator().manual_seed(0))
    images = torch.ones(500, 3, height, width)
    found = ERASING(images, uniform)
    attempts = 0
    for image, result, (happens, top, left, _, *sizes) in zip(images, found, uniform.tolist(), strict=True):
        drawn = iter([number for pair in zip(sizes[:10], sizes[10:], strict=True) for number in pair])

        def fill_evenly(tensor, low, high, drawn=drawn):
            return tensor.fill_(low + next(drawn) * (high - low))

        places = iter([top, left])

        def randint(low, high, size, places=places):
            return torch.full(size, low + int(next(places) * (high - low)))

        with (
            mock.patch.object(torch.Tensor, "uniform_", fill_evenly),
            mock.patch.multiple(torch, rand=lambda *shape, n=happens: torch.full(shape, n), randint=randint),
        ):
            assert torch.equal(result, theirs(image))
        attempts += len(list(drawn)) < 18
    assert (found == 1).flatten(1).all(1).float().mean() > 0.4
    assert attempts > (0 if height == width else 20)


def test_random_erasing_with_noise():
    operation = dataclasses.replace(ERASING, probability=1.0, fill="noise")
    uniform = torch.rand(400, operation.draws, generator=torch.Generator().manual_seed(0))
    images = torch.full((400, 3, 32, 32), 7.0)
    found, sides = operation(images, uniform), ERASING.erased(uniform.index_fill(1, torch.tensor(0), 0.0), 32, 32)
    erased = rectangle(sides, 32, 32).bool().expand_as(found)
    assert (found[~erased] == 7).all()
    noise = found[erased]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert len(noise.unique()) > 50_000  # others for other images


# Colours


def test_colors_shift_along_their_principal_components():
    shades = torch.tensor([[40, 30, -60], [5, -4, 1], [3, 4, 4]]).float()
    pixels = 120 + torch.randn(20, 32, 32, 3, generator=torch.Generator().manual_seed(0)) @ shades
    images = pixels.permute(0, 3, 1, 2).clamp(0, 255).to(torch.uint8)
    operation = PCAColor(strength=0.1).prepared(images)

    covariance = np.cov(images.transpose(0, 1).flatten(1).numpy() / 255, bias=True)
    np.testing.assert_allclose(color_covariance(images), covariance, rtol=1e-9)
    values, vectors = np.linalg.eigh(covariance)
    normal = np.array([0.5, -1.25, 2.0])
    uniform = torch.tensor([[NormalDist().cdf(number) for number in normal]])
    (found,) = operation(images[:1], uniform)
    # The sign of an eigenvector is anybody's choice.
    signs = np.sign((operation.axes.numpy() * (vectors * values).T).sum(1))
    shift = 255 * (vectors * values * signs) @ (0.1 * normal)
    expected = (images[0].numpy() + shift[:, None, None]).round().clip(0, 255)
    assert (np.abs(found.numpy() - expected) <= 1).all()
    assert (found.numpy() == expected).mean() > 0.99


def test_shifts_of_colors_are_normally_distributed():
    images = batch(50)
    operation = PCAColor(strength=2.0).prepared(images)
    plain = torch.full((4000, 3, 1, 1), 128, dtype=torch.uint8)
    uniform = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    shift = (operation(plain, uniform).float() - 128).flatten(1)
    lengths = operation.axes.norm(dim=1)
    along = shift @ (operation.axes / lengths[:, None]).T / (2.0 * lengths)
    torch.testing.assert_close(along.mean(0), torch.zeros(3), rtol=0, atol=0.06)
    torch.testing.assert_close(along.std(0), torch.ones(3), rtol=0, atol=0.06)


JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
ADJUST = {
    "brightness": VF.adjust_brightness,
    "contrast": VF.adjust_contrast,
    "saturation": VF.adjust_saturation,
    "hue": VF.adjust_hue,
}


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 31), (1, 32, 32)], ids=str)
@pytest.mark.parametrize(("key", "amount"), [(key, 0.4) for key in JITTER] + [("contrast", 1.5), ("brightness", 3.0)])
def test_color_jitter_equals_torchvision(key, amount, shape):
    """One grey level more or less where a product is rounded to another side before it is cut off."""
    operation = ColorJitter(**{**JITTER, key: amount})
    images, uniform = batch(64, *shape), torch.rand(64, 4)
    images[:8] = images[:8, :1]  # grey
    images[8:16] //= 100  # many equal channels
    found = operation(images, uniform)
    different = 0
    for image, result, number in zip(images, found, uniform[:, list(JITTER).index(key)].tolist(), strict=True):
        low, high = (-amount, amount) if key == "hue" else (max(0.0, 1 - amount), 1 + amount)
        expected = ADJUST[key](image, low + number * (high - low))
        difference = (result.int() - expected.int()).abs()
        assert difference.max() <= 1
        different += int((difference > 0).sum())
    assert different / images.numel() < 0.05


def test_color_jitter_runs_in_the_order_of_its_keys():
    images, uniform = batch(32), torch.rand(32, 4)
    found = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)(images, uniform)
    for image, result, numbers in zip(images, found, uniform.tolist(), strict=True):
        for adjust, number in zip(ADJUST.values(), numbers, strict=True):
            image = adjust(image, 0.2 * number - 0.1 if adjust is VF.adjust_hue else 0.6 + 0.8 * number)
        assert (result.int() - image.int()).abs().float().mean() < 0.1


# Scale


@pytest.mark.parametrize(("smallest", "largest"), [(1.0, 1.25), (1.5, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 37)], ids=str)
def test_scale_jitter_equals_torchvisions_resize_and_crop(smallest, largest, shape):
    """One grey level more or less where torchvision's fixed-point numbers round to the other side."""
    height, width = shape[1:]
    operation = ScaleJitter(smallest=smallest, largest=largest)
    images, uniform = batch(64, *shape), torch.rand(64, 3)
    uniform[0], uniform[1] = 0.0, 1 - 2**-24
    found = operation(images, uniform)
    for image, result, (size, top, left) in zip(images, found, uniform, strict=True):
        factor = smallest + size * (largest - smallest)
        rows, columns = int(factor * height), int(factor * width)
        enlarged = VF.resize(image, [rows, columns])
        expected = VF.crop(enlarged, int(top * (rows - height + 1)), int(left * (columns - width + 1)), height, width)
        assert (result.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("option", ["scale_jitter", "random_erasing"])
def test_a_range_the_wrong_way_about_is_refused(option):
    config = composed(f"regularization=[{option}]")
    config.regularization[option].smallest, config.regularization[option].largest = 0.9, 0.3
    with pytest.raises(CommandError, match=r"smallest=0.9 is greater than largest=0.3"):
        objects.instantiate(config.augmentation[option])


def test_the_contact_sheet_shows_every_operation():
    assert set(sheet.offered()) == set(EVERYTHING) - {"noise"}
    assert [operation.phase for operation in sheet.offered().values()] == sorted(
        (operation.phase for operation in sheet.offered().values()), key=PHASES.index
    )
    picture = sheet.contact_sheet(batch(2))
    lines = 1 + len(sheet.offered())
    assert picture.size == (sheet.TEXT + 2 * 68, 68 * lines)
