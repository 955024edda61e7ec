"""Batches: each image once, the same whatever the batch size, the position or the process."""

import pytest
import torch
from torchvision.transforms import v2

from data.augmentation.random_flip import RandomFlip
from data.loader import EvalLoader, Normalize, TrainLoader, mixed_seed
from tests.support.images import MEAN, NORMALIZE, OPERATIONS, STD, numbered


def loader(batch_size: int = 16, seed: int = 0, operations=OPERATIONS) -> TrainLoader:
    """A loader over the numbered images."""
    return TrainLoader(
        numbered(), batch_size=batch_size, operations=list(operations), normalize=NORMALIZE, num_classes=10, seed=seed
    )


def whole_epoch(loader: TrainLoader, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """All batches of an epoch in one."""
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_each_image_comes_once_and_in_another_order_each_epoch():
    first, second = whole_epoch(loader(), 0)[1], whole_epoch(loader(), 1)[1]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(50))


def test_the_last_batch_holds_what_is_left_over():
    sizes = [len(labels) for _, labels in loader(batch_size=16).epoch(0)]
    assert sizes == [16, 16, 16, 2]
    assert len(loader(batch_size=16)) == 4
    assert len(loader(batch_size=25)) == 2


def test_a_single_image_that_is_left_over_joins_the_batch_before_it():
    sizes = [len(labels) for _, labels in loader(batch_size=7).epoch(0)]
    assert sizes == [7] * 6 + [8]
    assert len(loader(batch_size=7)) == 7
    assert [len(labels) for _, labels in loader(batch_size=1).epoch(0)] == [1] * 50
    assert [len(labels) for _, labels in loader(batch_size=64).epoch(0)] == [50]


def test_an_epoch_repeats_exactly_and_another_seed_differs():
    images, labels = whole_epoch(loader())
    again = whole_epoch(loader())
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(labels, whole_epoch(loader(seed=1))[1])


def test_augmentation_does_not_depend_on_the_batch():
    images, labels = whole_epoch(loader(batch_size=16))
    others, other_labels = whole_epoch(loader(batch_size=7))
    assert torch.equal(labels, other_labels)
    assert torch.equal(images, others)


@pytest.mark.parametrize("first_step", [0, 1, 3])
def test_an_epoch_can_be_taken_up_at_any_step(first_step):
    whole = list(loader().epoch(2))[first_step:]
    rest = list(loader().epoch(2, first_step))
    assert len(whole) == len(rest)
    for (images, labels), (other_images, other_labels) in zip(whole, rest, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_the_global_generator_is_not_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(loader().epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_reaches_the_images():
    plain, labels = whole_epoch(loader(operations=()))
    augmented, _ = whole_epoch(loader())
    expected = NORMALIZE(numbered().images[labels])
    assert torch.equal(plain, expected)
    assert not torch.equal(augmented, expected)


def test_alternating_mirror_images():
    """Each image is mirrored in every other epoch, about half of them in the first."""
    load = loader(operations=(RandomFlip(0.5, alternating=True),))
    epochs = [whole_epoch(load, epoch) for epoch in range(4)]
    images = [batch[labels.argsort()] for batch, labels in epochs]
    originals = NORMALIZE(numbered().images)
    mirrored = (images[0] == originals.flip(3)).flatten(1).all(1)
    assert 15 < mirrored.sum() < 35
    for epoch, found in enumerate(images):
        flip = (mirrored if epoch % 2 == 0 else ~mirrored)[:, None, None, None]
        assert torch.equal(found, torch.where(flip, originals.flip(3), originals))
    other_seed, labels = whole_epoch(loader(seed=1, operations=load.operations))
    assert not torch.equal(other_seed[labels.argsort()], images[0])


def test_alternating_mirror_images_are_half_of_them():
    with pytest.raises(ValueError, match=r"probability=0\.4"):
        RandomFlip(0.4, alternating=True)


def test_neighbouring_seeds_and_epochs_share_nothing():
    seeds = {mixed_seed(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900


def test_normalisation_equals_torchvision():
    images = numbered().images
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.testing.assert_close(NORMALIZE(images), transform(images))
    torch.testing.assert_close(NORMALIZE.undo(NORMALIZE(images)) * 255, images.float())


def test_batches_have_the_memory_format_asked_for():
    normalize = Normalize(MEAN, STD, torch.device("cpu"), torch.channels_last)
    assert normalize(numbered().images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normalize(numbered().images), NORMALIZE(numbered().images))


def test_evaluation_takes_all_images_in_their_order():
    batches = list(EvalLoader(numbered(), batch_size=20, normalize=NORMALIZE))
    assert [len(labels) for _, labels in batches] == [20, 20, 10]
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(50))
    assert torch.equal(torch.cat([images for images, _ in batches]), NORMALIZE(numbered().images))
