"""Policies beside torchvision's, image by image: the same random numbers give the same images, and as often."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torchvision.transforms import v2

from data.augmentation.aug_mix import AugMix
from data.augmentation.auto_augment import AutoAugment
from data.augmentation.operations import Kind, apply
from data.augmentation.rand_augment import RandAugment
from data.augmentation.trivial_augment import TrivialAugment
from data.dataset import DataError
from tests.support.marks import slow_except

# No image whose sides differ by an odd number, as 40x33: turned by 90 degrees, each of its pixels lies exactly between
# two others, and either is right.
SIZES = [(3, 32, 32), (3, 41, 33), (1, 28, 28)]
NAMES = [kind.name.title().replace("_", "") for kind in Kind]  # as torchvision writes them


def photographs(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth random images of narrow and wide ranges of grey, some plain: what equalize and auto-contrast care for."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(count, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic")
    images += 0.05 * torch.randn(images.shape, generator=generator)
    low, high = torch.rand(2, count, 1, 1, 1, generator=generator)
    images[::50] = 0.3
    return ((low + images * (high - low)).clamp(0, 1) * 255).to(torch.uint8)


@contextmanager
def drawing(numbers: Iterable[float]) -> Iterator[None]:
    """Let torchvision draw these numbers between 0 and 1 in place of random ones, one after the other."""
    left = iter(numbers)

    def randint(*bounds, low=0, high=None, size=None):
        bounds = [bound for bound in bounds if isinstance(bound, int)]
        low, high = (low, high) if high is not None else ([0, *bounds][-2], bounds[-1])
        return torch.tensor(low + int(next(left) * (high - low)))

    with mock.patch.multiple(torch, rand=lambda *shape: torch.tensor(next(left)), randint=randint):
        yield
    assert next(left, None) is None, "torchvision drew fewer numbers"


def numbers_for(choice: float, count: int, level: float | None, direction: float) -> list[float]:
    """What torchvision draws for one of `count` operations: which, its level unless it is given, its direction."""
    name = NAMES[1:] if count == 9 else NAMES
    if count == 9:  # AugMix has these only
        name = [name for name in name if name not in ("Brightness", "Color", "Contrast", "Sharpness")]
    kind = NAMES.index(name[int(choice * count)])
    has_level = kind not in (Kind.IDENTITY, Kind.AUTO_CONTRAST, Kind.EQUALIZE, Kind.INVERT)
    signed = Kind.SHEAR_X <= kind <= Kind.SHARPNESS
    return [choice] + [level] * (has_level and level is not None) + [direction] * signed


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal, but for roundings of a processor that computes a * b + c in one step where another takes two.

    They may tip a grey level that is cut off to a whole number, and may choose the other one of two pixels
    that are equally near.
    """
    difference = (found.int() - expected.int()).abs()
    assert (difference > 1).float().mean() < 1e-3
    assert (difference > 0).float().mean() < 5e-3


# Each operation


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_every_operation_at_every_magnitude_equals_torchvision(shape):
    """TrivialAugment's 14 operations, 31 levels and two directions."""
    transform = v2.TrivialAugmentWide()
    uniform = torch.tensor(
        [
            [(kind + 0.5) / 14, (level + 0.5) / 31, direction]
            for kind in range(14)
            for level in range(31)
            for direction in (0.25, 0.75)
        ]
    )
    images = photographs(len(uniform), *shape)
    found = TrivialAugment()(images, uniform)
    expected = []
    for image, (choice, level, direction) in zip(images, uniform.tolist(), strict=True):
        with drawing(numbers_for(choice, 14, level, direction)):
            expected.append(transform(image))
    for kind, ours, theirs in zip(NAMES, found.split(62), torch.stack(expected).split(62), strict=False):
        assert_same(ours, theirs)
        if kind in ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"):
            assert torch.equal(ours, theirs), kind


def test_invert():
    images = photographs(8, 3, 32, 32)
    assert torch.equal(apply(images, torch.full((8,), int(Kind.INVERT)), torch.zeros(8)), 255 - images)


def test_operations_do_not_mix_images():
    """Each image by itself gives what it gives among others."""
    images, uniform = photographs(40, 3, 24, 20), torch.rand(40, 3)
    found = TrivialAugment()(images, uniform)
    for index in range(40):
        assert torch.equal(found[index], TrivialAugment()(images[index : index + 1], uniform[index : index + 1])[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 3)])
def test_images_too_small_to_sharpen(height, width):
    images = torch.randint(0, 256, (14, 3, height, width), dtype=torch.uint8)
    found = apply(images, torch.arange(14), torch.full((14,), 0.5))
    assert torch.equal(found[Kind.IDENTITY], images[Kind.IDENTITY])
    expected = v2.functional.adjust_sharpness(images[Kind.SHARPNESS], 1.5)
    assert (found[Kind.SHARPNESS].int() - expected.int()).abs().max() <= 1


def test_images_that_have_no_colours_are_refused():
    with pytest.raises(DataError, match="the images have 2 channels"):
        TrivialAugment()(torch.zeros(4, 2, 32, 32, dtype=torch.uint8), torch.rand(4, 3))


# Whole policies, on the same random numbers


@pytest.mark.parametrize("shape", slow_except(SIZES[:1], SIZES), ids=str)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augment_equals_torchvision(shape, magnitude):
    """Every ordered pair of operations."""
    ours, theirs = RandAugment(operations=2, magnitude=magnitude), v2.RandAugment(2, magnitude)
    pairs = torch.tensor(list(itertools.product(range(14), repeat=2)))
    directions = torch.rand(len(pairs), 2, generator=torch.Generator().manual_seed(0))
    uniform = torch.cat([(pairs + 0.5) / 14, directions], dim=1)
    images = photographs(len(pairs), *shape)
    expected = []
    for image, (*choices, first, second) in zip(images, uniform.tolist(), strict=True):
        with drawing(
            numbers_for(choices[0], 14, None, first) + numbers_for(choices[1], 14, None, second),
        ):
            expected.append(theirs(image))
    assert_same(ours(images, uniform), torch.stack(expected))


@pytest.mark.parametrize("shape", slow_except(SIZES[-1:], SIZES), ids=str)
def test_auto_augment_equals_torchvision(shape):
    """Random numbers, so that pairs, probabilities, levels and directions all count."""
    ours, theirs = AutoAugment(), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    uniform = torch.rand(1000, ours.draws, generator=torch.Generator().manual_seed(0))
    images = photographs(len(uniform), *shape)
    found = ours(images, uniform)
    kinds, _ = ours.drawn(uniform, *shape[1:])
    expected = []
    for image, numbers, kind in zip(images, uniform.tolist(), kinds.T.tolist(), strict=True):
        drawn = [numbers[0]]
        for happens, direction, chosen in zip(numbers[1:3], numbers[3:], kind, strict=True):
            drawn += [happens] + [direction] * (Kind.SHEAR_X <= chosen <= Kind.SHARPNESS)
        with drawing(drawn):  # fails where torchvision draws a direction and we do not, or the other way about
            expected.append(theirs(image))
    assert_same(found, torch.stack(expected))


@pytest.mark.parametrize("shape", slow_except(SIZES[:1], SIZES), ids=str)
@pytest.mark.parametrize("severity", [3, 10])
def test_aug_mix_equals_torchvision(shape, severity):
    ours, theirs = AugMix(severity=severity, chains=3, depth=3), v2.AugMix(severity, all_ops=False)
    uniform = torch.rand(100, ours.draws, generator=torch.Generator().manual_seed(0))
    images = photographs(len(uniform), *shape)
    shares, _, _ = ours.drawn(uniform, *shape[1:])
    torch.testing.assert_close(shares.sum(0), torch.ones(100))
    expected = []
    for image, numbers, share in zip(images, uniform.tolist(), shares.T, strict=True):
        lengths, operations = numbers[4:7], [numbers[start : start + 9] for start in (7, 16, 25)]
        drawn = []
        for chain, length in enumerate(lengths):
            drawn.append(length)
            for step in range(3 * chain, 3 * chain + 1 + int(3 * length)):
                which, level, direction = (part[step] for part in operations)
                drawn += numbers_for(which, 9, level, direction)
        weights = [torch.stack([share[0], 1 - share[0]])[None], (share[1:] / share[1:].sum())[None]]
        with drawing(drawn), mock.patch.object(torch, "_sample_dirichlet", side_effect=weights):
            expected.append(theirs(image))
    assert_same(ours(images, uniform), torch.stack(expected))


# How often


def chi_square(ours: Counter, theirs: Counter) -> float:
    """How many standard deviations the chi-square statistic of two samples lies above its mean."""
    total_ours, total_theirs = ours.total(), theirs.total()
    ratio = (total_theirs / total_ours) ** 0.5
    values = set(ours) | set(theirs)
    statistic = sum(
        (ours[value] * ratio - theirs[value] / ratio) ** 2 / (ours[value] + theirs[value]) for value in values
    )
    degrees = max(1, len(values) - 1)
    return (statistic - degrees) / (2 * degrees) ** 0.5


def torchvisions_draws(transform: v2.Transform, count: int) -> list[list[tuple[str, float]]]:
    """The operations and magnitudes that torchvision chooses for each of `count` images, without computing them."""
    chosen: list[list[tuple[str, float]]] = []

    def note(image, name, magnitude, **_):
        chosen[-1].append((name, round(magnitude, 4)))
        return image

    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with torch.random.fork_rng(), mock.patch.object(transform, "_apply_image_or_video_transform", note):
        torch.manual_seed(0)
        for _ in range(count):
            chosen.append([])
            transform(image)
    return chosen


def our_draws(kinds: torch.Tensor, sizes: torch.Tensor) -> list[list[tuple[str, float]]]:
    """The same of ours, from [steps, B] kinds and magnitudes, without identities that stand for nothing."""
    return [
        [(NAMES[kind], round(size, 4)) for kind, size in zip(*pair, strict=True)]
        for pair in zip(kinds.T.tolist(), sizes.T.tolist(), strict=True)
    ]


def random_numbers(operation) -> torch.Tensor:
    """Uniform numbers for 6,000 images."""
    return torch.rand(6000, operation.draws, generator=torch.Generator().manual_seed(1))


def trivial() -> list[list[tuple[str, float]]]:
    """TrivialAugment's draws."""
    return our_draws(*TrivialAugment().drawn(random_numbers(TrivialAugment())))


def rand() -> list[list[tuple[str, float]]]:
    """RandAugment's draws."""
    operation = RandAugment(operations=2, magnitude=9)
    return our_draws(*operation.drawn(random_numbers(operation), 32, 32))


def auto() -> list[list[tuple[str, float]]]:
    """AutoAugment's draws."""
    draws = our_draws(*AutoAugment().drawn(random_numbers(AutoAugment()), 32, 32))
    return [[drawn for drawn in draw if drawn[0] != "Identity"] for draw in draws]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (trivial, v2.TrivialAugmentWide()),
        (rand, v2.RandAugment(2, 9)),
        (auto, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    ],
    ids=["trivial_augment", "rand_augment", "auto_augment"],
)
def test_the_draws_have_torchvisions_distribution(
    ours: Callable[[], list[list[tuple[str, float]]]], theirs: v2.Transform
):
    """Chi-square of two samples of 6,000; 4 standard deviations above the mean come once in some thousand times."""
    ours, theirs = ours(), torchvisions_draws(theirs, 6000)
    views = {
        "operation": lambda name, magnitude: name,
        "direction": lambda name, magnitude: (name, magnitude > 0) if name in NAMES[1:10] else name,
        "magnitude": lambda name, magnitude: abs(magnitude) if name == "Rotate" else None,
        "both": lambda name, magnitude: (name, magnitude),
    }
    for what, view in views.items():
        counts = [Counter(view(*drawn) for draw in draws for drawn in draw) for draws in (ours, theirs)]
        assert chi_square(*counts) < 4, what
    sequences = [Counter(tuple(name for name, _ in draw) for draw in draws) for draws in (ours, theirs)]
    assert chi_square(*sequences) < 4


def test_the_only_chain_of_aug_mix_may_draw_a_weight_of_nothing():
    operation = AugMix(severity=3, chains=1, depth=1)
    numbers = torch.full((1, operation.draws), 0.4)
    numbers[0, 1] = 0
    shares, _, _ = operation.drawn(numbers, 32, 32)
    torch.testing.assert_close(shares, torch.tensor([[0.4], [0.6]]))


def test_the_shares_of_aug_mix_have_their_distribution():
    """The original's is uniform, those of three chains are Dirichlet(1, 1, 1): a share exceeds x with (1 - x)^2."""
    operation = AugMix(severity=3, chains=3, depth=3)
    shares, kinds, _ = operation.drawn(random_numbers(operation), 32, 32)
    edges = torch.linspace(0, 1, 11)
    assert chi_square(Counter((shares[0] * 10).long().tolist()), Counter(dict.fromkeys(range(10), 10**6))) < 4
    relative = shares[1:] / shares[1:].sum(0)
    expected = Counter({i: int(10**7 * ((1 - edges[i]) ** 2 - (1 - edges[i + 1]) ** 2)) for i in range(10)})
    for chain in relative:
        assert chi_square(Counter((chain * 10).long().clamp(max=9).tolist()), expected) < 4
    # Chains of one, two or three operations, none of which is the identity.
    lengths = (kinds != Kind.IDENTITY).sum(1).flatten().tolist()
    assert chi_square(Counter(lengths), Counter(dict.fromkeys((1, 2, 3), 10**6))) < 4
