"""Where images come from, and how they are divided."""

import pytest
import torch

from data.dataset import DataError, Dataset, Images, channel_statistics, split, stratified_order
from data.shapes import OUTLINES, TEXTURES, shapes


def labelled(labels: torch.Tensor) -> Images:
    """Images of one pixel that hold their own number."""
    return Images(torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1), labels)


def dataset(train: int = 200, test: int = 50, classes: int = 5) -> Dataset:
    """A data set with unequal classes: class 0 has about half of the images."""
    generator = torch.Generator().manual_seed(0)

    def labels(count: int) -> torch.Tensor:
        return torch.randint(0, 2 * classes, (count,), generator=generator).sub(classes).clamp(min=0)

    names = [str(number) for number in range(classes)]
    return Dataset(labelled(labels(train)), labelled(labels(test)), names, mean=[0.5], std=[0.2])


@pytest.mark.parametrize(("val_size", "expected"), [(40, 40), (0.25, 50), (0, 0), (0.001, 0)])
def test_validation_images_are_held_out_of_training(val_size, expected):
    splits = split(dataset(), val_size=val_size)
    assert len(splits.val) == expected
    numbers = torch.cat([splits.train.images, splits.val.images]).flatten().tolist()
    assert sorted(numbers) == list(range(200))
    assert torch.equal(splits.test.images, dataset().test.images)


def test_each_class_keeps_its_share():
    data = dataset()
    shares = data.train.labels.bincount() / 200
    for size in (20, 40, 100):
        counts = split(data, val_size=size).val.labels.bincount(minlength=5)
        assert (counts - shares * size).abs().max() <= 1


def test_classes_of_equal_size_are_divided_equally():
    data = Dataset(labelled(torch.arange(200) % 10), labelled(torch.arange(10)), list("abcdefghij"), [0.5], [0.2])
    assert split(data, val_size=50).val.labels.bincount().tolist() == [5] * 10


def test_a_class_takes_its_random_numbers_in_the_order_of_the_labels():
    """What is held out stays the same from version to version, also where labels are missing."""
    labels = torch.tensor([3, 0, 3, 3, 7, 0, 7, 3, 0, 7])
    generator, position = torch.Generator().manual_seed(5), torch.empty(10, dtype=torch.float64)
    for label in (0, 3, 7):
        members = (labels == label).nonzero().squeeze(1)
        rank = torch.randperm(len(members), generator=generator)
        position[members] = (rank + torch.rand((), generator=generator, dtype=torch.float64)) / len(members)
    assert torch.equal(stratified_order(labels, torch.Generator().manual_seed(5)), position.argsort())


def test_an_error_is_one_line_whatever_is_named_in_it():
    error = DataError("train/a\nb\r\x1b[2J\u2028猫 é\udcff: no image")
    assert str(error) == r"train/a\nb\r\x1b[2J\u2028猫 é\udcff: no image"


def test_the_division_follows_from_the_seed():
    first, same, other = (split(dataset(), val_size=40, seed=seed).val.images for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first.sort(0).values, other.sort(0).values)


def test_limits_take_of_each_class_and_leave_the_validation_images_as_they_are():
    whole, limited = split(dataset(), val_size=40), split(dataset(), val_size=40, train_limit=20, test_limit=10)
    assert (len(limited.train), len(limited.test)) == (20, 10)
    assert torch.equal(whole.val.images, limited.val.images)
    assert set(limited.train.labels.tolist()) == set(range(5))


def test_too_many_validation_images_are_refused():
    with pytest.raises(DataError, match="train_limit=4 leaves too few images for 5 classes"):
        split(dataset(), val_size=0, train_limit=4)
    with pytest.raises(DataError, match="val_size=199 leaves too few of the 200 training images for 5 classes"):
        split(dataset(), val_size=199)


def test_statistics_are_those_of_the_training_images_alone():
    data = dataset()
    splits = split(Dataset(data.train, data.test, data.classes), val_size=100)
    pixels = splits.train.images.double() / 255
    assert splits.mean == pytest.approx([pixels.mean().item()])
    assert splits.std == pytest.approx([pixels.std(correction=0).item()])


def test_channel_statistics_are_exact():
    images = torch.randint(0, 256, (100, 3, 5, 7), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    expected = images.double() / 255
    assert mean == pytest.approx(expected.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(expected.std((0, 2, 3), correction=0).tolist(), rel=1e-9)


def test_images_of_one_colour_have_the_smallest_std():
    """One step of a byte, in place of the 0 that nothing can be divided by."""
    assert channel_statistics(torch.full((4, 3, 5, 5), 51, dtype=torch.uint8)) == ([0.2] * 3, [1 / 255] * 3)


# Generated shapes


@pytest.mark.parametrize("classes", [10, 100])
def test_shapes_are_balanced_and_follow_from_the_seed(classes):
    options = {"classes": classes, "train_size": 200, "test_size": 100, "image_size": 32, "clutter": 1.0}
    first, same, other = (shapes(**options, seed=seed) for seed in (0, 0, 1))
    assert len(first.classes) == len(set(first.classes)) == classes
    assert first.train.images.shape == (200, 3, 32, 32)
    assert first.train.images.dtype == torch.uint8
    assert first.train.labels.bincount().tolist() == [200 // classes] * classes
    assert torch.equal(first.train.images, same.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    seen, unseen = ({image.numpy().tobytes() for image in part.images} for part in (first.train, first.test))
    assert len(seen) == 200
    assert not seen & unseen
    assert (len(OUTLINES), len(TEXTURES)) == (10, 10)


@pytest.mark.parametrize(("clutter", "mean", "std"), [(0.0, 53.0, 76.1), (1.0, 85.9, 50.5)])
def test_shapes_are_as_bright_as_ever(clutter, mean, std):
    """What earlier figures were measured on stays what it is; computed here, to within rounding elsewhere."""
    images = shapes(classes=10, train_size=200, test_size=10, image_size=32, clutter=clutter, seed=0).train.images
    assert images.double().mean().item() == pytest.approx(mean, abs=0.2)
    assert images.double().std().item() == pytest.approx(std, abs=0.2)


def test_one_given_statistic_is_kept_and_the_other_measured():
    part = Images(torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8), torch.arange(20) % 2)
    splits = split(Dataset(part, part, ["a", "b"], mean=[0.1, 0.2, 0.3]), val_size=0)
    assert splits.mean == [0.1, 0.2, 0.3]
    assert splits.std == channel_statistics(splits.train.images)[1]
    with pytest.raises(DataError, match="the images have 3 channels"):
        split(Dataset(part, part, ["a", "b"], mean=[0.1]), val_size=0)
