"""Mixtures of images and targets, beside the papers' equations worked out image by image."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from data.loader import TrainLoader
from data.mixing.cutmix import CutMix
from data.mixing.mixup import Mixup
from engine.build import autotune, objects
from tests.support.images import NORMALIZE, numbered
from tests.support.runs import composed

ALWAYS = {"alpha": 1.0, "probability": 1.0}
BOTH = [Mixup(**ALWAYS, per_image=False), CutMix(**ALWAYS, per_image=False)]
SHARES = st.floats(0, 1, exclude_max=True, width=32)


def batch(count: int = 6, height: int = 8, width: int = 12):
    """Random images, the targets of as many classes, and partners."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, height, width, generator=generator)
    return images, torch.eye(count), torch.randperm(count, generator=generator)


@pytest.mark.parametrize("per_image", [False, True])
def test_mixup_by_hand(per_image):
    images, targets, partners = batch()
    shares = torch.tensor([0.0, 0.25, 0.5, 0.7, 0.9, 1.0] if per_image else [0.3])[:, None]
    mixed, mixed_targets = Mixup(**ALWAYS, per_image=per_image)(images, targets, partners, shares)
    for i in range(6):
        share, j = shares[i if per_image else 0].item(), partners[i]
        torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[j])
        torch.testing.assert_close(mixed_targets[i], share * targets[i] + (1 - share) * targets[j])


@pytest.mark.parametrize("per_image", [False, True])
def test_cutmix_by_hand(per_image):
    """Algorithm A1: the rectangle is cut off at the border, and the target follows what is left of it."""
    images, targets, partners = batch()
    rng = np.random.default_rng(0)
    mixing = CutMix(**ALWAYS, per_image=per_image)
    numbers = torch.from_numpy(mixing.draw(6 if per_image else 1, rng)).float()
    mixed, mixed_targets = mixing(images, targets, partners, numbers)
    for i in range(6):
        share, y, x = numbers[i if per_image else 0].tolist()
        cut_height, cut_width = int(8 * (1 - share) ** 0.5), int(12 * (1 - share) ** 0.5)
        top, left = int(y * 8) - cut_height // 2, int(x * 12) - cut_width // 2
        expected, pasted = images[i].clone(), 0
        for row in range(max(top, 0), min(top + cut_height, 8)):
            for column in range(max(left, 0), min(left + cut_width, 12)):
                expected[:, row, column] = images[partners[i], :, row, column]
                pasted += 1
        assert torch.equal(mixed[i], expected)
        torch.testing.assert_close(mixed_targets[i], torch.lerp(targets[i], targets[partners[i]], pasted / 96))


@given(share=SHARES, y=SHARES, x=SHARES, height=st.integers(1, 40), width=st.integers(1, 40))
def test_what_cutmix_pastes_is_what_the_target_says(share, y, x, height, width):
    images = torch.stack([torch.zeros(1, height, width), torch.ones(1, height, width)])
    mixing = CutMix(**ALWAYS, per_image=False)
    mixed, targets = mixing(images, torch.eye(2), torch.tensor([1, 0]), torch.tensor([[share, y, x]]))
    assert mixed[0].mean().item() == pytest.approx(targets[0, 1].item(), abs=1e-6)
    assert mixed[0].mean() <= (1 - share) + 1e-6
    torch.testing.assert_close(targets.sum(1), torch.ones(2))


def test_shares_follow_beta():
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)), within four standard errors of 20,000 draws."""
    for alpha in (0.2, 1.0, 3.0):
        for mixing in (
            Mixup(alpha=alpha, probability=1, per_image=True),
            CutMix(alpha=alpha, probability=1, per_image=True),
        ):
            shares = mixing.draw(20_000, np.random.default_rng(0))[:, 0]
            variance = 1 / (4 * (2 * alpha + 1))
            assert shares.mean() == pytest.approx(0.5, abs=4 * (variance / 20_000) ** 0.5)
            assert shares.var() == pytest.approx(variance, rel=0.05)


def loader(mixings, batch_size: int = 16, memory_format=torch.contiguous_format) -> TrainLoader:
    """A loader over 50 numbered images without augmentation, each its own class."""
    return TrainLoader(
        numbered(), batch_size=batch_size, operations=[], mixings=mixings, normalize=NORMALIZE, num_classes=50, seed=0
    )


def test_targets_are_probabilities_and_tell_the_partner():
    """An image's target names two images, of which it is the mixture."""
    every = NORMALIZE(numbered().images)
    for images, targets in loader([Mixup(**ALWAYS, per_image=True)]).epoch(0):
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
        torch.testing.assert_close(images, (targets @ every.flatten(1)).view(images.shape))


def test_a_batch_meets_itself_in_another_order():
    partners = set()
    for _, targets in loader([Mixup(**ALWAYS, per_image=True)], batch_size=50).epoch(0):
        assert torch.allclose(targets.sum(0).sum(), torch.tensor(50.0))
        partners |= {tuple((row > 0).nonzero().flatten().tolist()) for row in targets}
    assert len(partners) > 40


def test_one_share_a_batch_unless_each_image_has_its_own():
    for per_image in (False, True):
        (_, targets), *_ = loader([Mixup(**ALWAYS, per_image=per_image)]).epoch(0)
        shares = {round(min(value, 1 - value), 4) for value in targets[targets > 0].tolist()}
        assert (len(shares) > 5) == per_image


def test_two_mixings_take_turns():
    """Each batch is given to one of them with equal chances: a mixture by halves is a mixup, another one is not."""
    mixings = [Mixup(alpha=1e5, probability=1, per_image=False), CutMix(alpha=1.0, probability=1, per_image=False)]
    mixed = mixup = 0
    for epoch in range(80):
        for _, targets in loader(mixings, batch_size=2).epoch(epoch):
            mixed += bool((targets.max(1).values < 1).any())
            mixup += bool(((targets.amax(1) - 0.5).abs() < 0.02).any())
    assert mixed > 500, "of two images half of the permutations leave all as it is"
    assert 0.43 < mixup / mixed < 0.57


@pytest.mark.parametrize(
    "mixings", [BOTH, BOTH[:1], [CutMix(**ALWAYS, per_image=True)]], ids=["both", "mixup", "cutmix"]
)
def test_an_epoch_can_be_taken_up_at_any_step(mixings):
    whole = list(loader(mixings).epoch(3))
    for step in (1, 3):
        for (images, targets), (first, second) in zip(loader(mixings).epoch(3, step), whole[step:], strict=True):
            assert torch.equal(images, first)
            assert torch.equal(targets, second)


def test_another_epoch_is_mixed_otherwise():
    first, second = (torch.cat([targets for _, targets in loader(BOTH).epoch(epoch)]) for epoch in (0, 1))
    assert not torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize("mixing", BOTH, ids=lambda mixing: type(mixing).__name__)
def test_a_mixing_leaves_its_input_alone_and_keeps_the_memory_format(mixing):
    images, targets, partners = batch()
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone(), targets.clone()
    mixed, _ = mixing(images, targets, partners, torch.tensor([[0.5, 0.5, 0.5]]))
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixed_targets_give_the_mixture_of_the_losses(option):
    """Equal to what the papers' code computes: share * loss(image's label) + (1 - share) * loss(partner's)."""
    config = composed(f"regularization=[{option}]", "trainer.device=cpu")
    mixing, step = (
        instantiate(config.mixing[option]),
        objects.train_step(config, autotune.possible_backends(config)[0]),
    )
    images, targets, partners = batch()
    numbers = torch.tensor([[0.3, 0.5, 0.5][: 1 if option == "mixup" else 3]])
    _, mixed = mixing(images, targets, partners, numbers)
    share = 0.3 if option == "mixup" else 1 - (6 * 10) / 96  # int(8 * 0.7 ** 0.5) rows, int(12 * 0.7 ** 0.5) columns
    logits, labels = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)), targets.argmax(1)
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[partners])
    torch.testing.assert_close(step.loss(logits, mixed), expected)
