"""Corruptions against other formulations of the same: SciPy, Pillow, torchvision, a loop for each pixel."""

import colorsys
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import fft, ndimage, stats

from data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from data.corruptions.blur import streaked, zoomed
from data.corruptions.moved import rotated, translated
from data.corruptions.weather import plasma

EVERY = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of random numbers."""
    return torch.Generator().manual_seed(seed)


def photographs(count: int = 4, *, channels: int = 3, size: int = 32) -> torch.Tensor:
    """Clouds, half as strong where they are half as large as in photographs, and a disk; uint8 [N, C, H, W]."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    total, generator = 0.3 * (down**2 + across**2 < 0.3), seeded(1)
    for places in (4, 8, 16, 32):
        clouds = torch.rand(count, channels, places, places, generator=generator)
        total = total + 1.6 / places * torch.nn.functional.interpolate(clouds, size=size, mode="bilinear")
    return (255 * total).clamp(0, 255).to(torch.uint8)


def last(images: torch.Tensor, change) -> torch.Tensor:
    """What a function of a colour image, float64 [H, W, C] from 0 to 1, makes of each, as bytes."""
    pixels = images.permute(0, 2, 3, 1).double().numpy() / 255
    changed = np.stack([np.clip(change(number, image), 0, 1) for number, image in enumerate(pixels)])
    return torch.from_numpy((255 * changed + 1e-3).astype(np.uint8)).permute(0, 3, 1, 2)


def assert_near(found: torch.Tensor, expected: torch.Tensor, *, off_by: int = 1, share: float = 0.01) -> None:
    """The same bytes, but for a few that are `off_by` so much."""
    assert found.dtype == torch.uint8
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= off_by
    assert (difference > 0).float().mean() <= share


def psnr(images: torch.Tensor, others: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in decibels."""
    return float(10 * torch.log10(255**2 / (images.float() - others.float()).square().mean()))


@pytest.mark.parametrize(("name", "severity"), EVERY)
def test_bytes_in_bytes_out(name, severity):
    """Of any size and one channel or three; the same with the same numbers; the images given stay as they are."""
    for channels, size in ((3, 32), (1, 32), (3, 64)):
        images = photographs(channels=channels, size=size)
        before = images.clone()
        found = CORRUPTIONS[name](images, severity, seeded())
        assert (found.dtype, found.shape, found.device.type) == (torch.uint8, images.shape, "cpu")
        assert torch.equal(found, CORRUPTIONS[name](images, severity, seeded()))
        assert torch.equal(images, before)
        assert not torch.equal(found, images)


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"]
)
def test_without_chance_each_image_is_by_itself(name):
    images = photographs(6)
    apart = [CORRUPTIONS[name](image[None], 3, seeded(number)) for number, image in enumerate(images)]
    assert_near(CORRUPTIONS[name](images, 3, seeded()), torch.cat(apart), share=0.001)


# In the authors' constants some numbers fall where others rise, or the image gets darker where ice makes it lighter.
# How much large pixels change depends on where edges lie; the test of that corruption counts them.
UNSTEADY = {"elastic_transform", "glass_blur", "frost", "pixelate"}


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - UNSTEADY))
def test_damage_grows_with_severity(name):
    """But motion blur's severities 3 and 4 differ in what has no weight any more, and so by chance alone."""
    images = photographs(64)
    ratios = [psnr(images, corrupted(images, name, severity)) for severity in SEVERITIES]
    if name == "motion_blur":
        assert ratios[2] == pytest.approx(ratios[3], abs=0.5)
        ratios.pop(3)
    assert all(first > second for first, second in pairwise(ratios)), ratios


@pytest.mark.parametrize("name", ["glass_blur", "frost"])
def test_damage_grows_from_end_to_end(name):
    images = photographs(64)
    mildest, hardest = (psnr(images, corrupted(images, name, severity)) for severity in (1, 5))
    assert mildest > hardest


def test_all_images_are_corrupted_alike_however_many_there_are_at_once(monkeypatch):
    images = photographs(20)
    for name in CORRUPTIONS:
        found = corrupted(images, name, 2)
        assert torch.equal(found, corrupted(images, name, 2))
        assert len(found) == 20
    monkeypatch.setattr("data.corruptions.AT_ONCE", 7)
    first, second = corrupted(images[:1].expand(14, -1, -1, -1).contiguous(), "gaussian_noise", 2).split(7)
    assert not torch.equal(first, second), "each of the parts has random numbers of its own"
    assert torch.equal(corrupted(images, "contrast", 2), CORRUPTIONS["contrast"](images, 2, seeded()))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_distribution_it_should(severity):
    """Kolmogorov's test for the normal one, moments of the others, on a grey that nothing clips."""
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    noise = CORRUPTIONS["gaussian_noise"](grey, severity, seeded()).double().numpy().ravel()
    dithered = noise + np.random.default_rng(0).random(noise.shape)  # what was cut off behind the point
    assert stats.kstest(dithered, "norm", args=(128, 255 * deviation)).pvalue > 1e-3

    photons = (500, 250, 100, 75, 50)[severity - 1]
    found = CORRUPTIONS["shot_noise"](grey, severity, seeded())
    counts = np.arange(photons * 3)
    values = np.floor(np.minimum(counts / photons, 1) * 255 + 1e-3)
    chances = stats.poisson.pmf(counts, photons * 128 / 255)
    expected = np.bincount(values.astype(int), chances, 256) * grey.numel()
    seen = np.bincount(found.numpy().ravel(), minlength=256)
    assert (seen[expected < 1e-9] == 0).all(), "only whole numbers of photons are counted"
    common = expected > 20
    assert (
        stats.chisquare(
            [*seen[common], seen[~common].sum()], [*expected[common], expected[~common].sum() + 1e-9]
        ).pvalue
        > 1e-3
    )

    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    found = CORRUPTIONS["impulse_noise"](grey, severity, seeded())
    for value in (0, 255):
        assert stats.binomtest(int((found == value).sum()), grey.numel(), share / 2).pvalue > 1e-3
    assert ((found == 128) | (found == 0) | (found == 255)).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur(severity):
    """The kernel on the authors' 17x17 grid, by SciPy; its `mirror` is OpenCV's default border."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    y, x = np.mgrid[-8:9, -8:9]
    soft = np.exp(-(np.arange(-1, 2) ** 2) / (2 * softness**2))
    disk = ((x**2 + y**2) <= radius**2) / ((x**2 + y**2) <= radius**2).sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, soft / soft.sum(), axis=axis, mode="constant")
    images = photographs()
    expected = last(images, lambda _, image: ndimage.correlate(image, disk[:, :, None], mode="mirror"))
    assert_near(CORRUPTIONS["defocus_blur"](images, severity, seeded()), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur(severity):
    """The walk from the last pixel to the first, with a swap of NumPy's views, which copies."""
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    images, generator = photographs(), seeded()
    draws = [torch.randint(2, (2, *images.shape[:1], 32, 32), generator=generator).numpy() for _ in range(times)]

    def glass(number, image):
        def smooth(image):
            return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4)

        pixels = (255 * smooth(image) + 1e-3).astype(np.uint8)
        for up, left in (draw[:, number] for draw in draws):
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    to, source = pixels[h, w], pixels[h - up[h, w], w - left[h, w]]
                    to[:], source[:] = source, to
        return smooth(pixels / 255)

    assert_near(CORRUPTIONS["glass_blur"](images, severity, seeded()), last(images, glass), share=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur(severity):
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    images = photographs()
    degrees = 90 * torch.rand(len(images), generator=seeded()) - 45

    def moved(number, image):
        return looped(image, radius, sigma, float(degrees[number]))

    assert_near(CORRUPTIONS["motion_blur"](images, severity, seeded()), last(images, moved), share=0.02)


def looped(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """A line of gaussian weights from each pixel, step by step and with every step."""
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    total = np.zeros_like(image)
    height, width = image.shape[:2]
    for step, weight in enumerate(weights):
        down = math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
        right = math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
        for y in range(height):
            for x in range(width):
                place = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                total[y, x] += weight / sum(weights) * image[place]
    return total


def test_a_movement_along_an_axis_is_a_filter_of_one_dimension():
    point = torch.zeros(1, 1, 32, 32)
    point[0, 0, 16, 16] = 1
    weights = torch.exp(-(torch.arange(9.0) ** 2) / 2)
    level = streaked(point, radius=4, sigma=1, degrees=torch.tensor([0.0]))
    np.testing.assert_allclose(level[0, 0, 16, 8:17], (weights / weights.sum()).flip(0), atol=2e-5)
    upright = streaked(point, radius=4, sigma=1, degrees=torch.tensor([-90.0]))
    np.testing.assert_allclose(upright[0, 0, 16:25, 16], weights / weights.sum(), atol=2e-5)


def enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image [H, W, C], enlarged by SciPy as a whole and trimmed."""
    size = len(image)
    middle = math.ceil(size / factor)
    first = (size - middle) // 2
    larger = ndimage.zoom(image[first : first + middle, first : first + middle], (factor, factor, 1), order=1)
    trim = (len(larger) - size) // 2
    return larger[trim : trim + size, trim : trim + size]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur(severity):
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    images = photographs()

    def blurred(_, image):
        return np.mean([image, *(enlarged(image, factor) for factor in factors)], axis=0)

    assert_near(CORRUPTIONS["zoom_blur"](images, severity, seeded()), last(images, blurred), share=0.02)


@pytest.mark.parametrize(("factor", "size"), [(1.0, 32), (1.25, 32), (2.25, 32), (1.75, 64), (1.13, 50)])
def test_enlargement(factor, size):
    images = torch.rand(2, 3, size, size, generator=seeded())
    expected = [enlarged(image.permute(1, 2, 0).double().numpy(), factor) for image in images]
    found = zoomed(images, factor).permute(0, 2, 3, 1).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow(severity):
    mean, deviation, factor, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    images, generator = photographs(2), seeded()
    noise = torch.randn(2, 1, 32, 32, generator=generator)
    degrees = 90 * torch.rand(2, generator=generator) - 135

    def snowed(number, image):
        flakes = enlarged(mean + deviation * noise[number].permute(1, 2, 0).double().numpy(), factor)
        flakes[flakes < threshold] = 0
        flakes = (np.clip(flakes, 0, 1) * 255 + 1e-3).astype(np.uint8) / 255
        flakes = looped(flakes, radius, sigma, float(degrees[number]))
        grey = image @ [0.299, 0.587, 0.114]
        pale = kept * image + (1 - kept) * np.maximum(image, grey[:, :, None] * 1.5 + 0.5)
        return pale + flakes + np.rot90(flakes, 2)

    assert_near(CORRUPTIONS["snow"](images, severity, seeded()), last(images, snowed), share=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_a_weighted_sum_with_one_ice(severity):
    """From black and from white the same ice comes out, another one in each image."""
    kept, added = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    black = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    middle = torch.full_like(black, 100)
    ice, mixed = (CORRUPTIONS["frost"](images, severity, seeded()).float() for images in (black, middle))
    assert ((mixed - ice - 100 * kept).abs() <= 1).logical_or(mixed == 255).all()
    assert ice.max() <= 255 * added
    assert ice.mean() > 255 * added * 0.25
    assert ice.std((1, 2, 3)).min() > 255 * added * 0.05, "it has a texture"
    assert len({piece.numpy().tobytes() for piece in ice}) == 8
    assert (ice[:, 2] >= ice[:, 0]).all(), "ice is rather blue"


@pytest.mark.parametrize(("side", "decay"), [(2, 3), (8, 2.5), (32, 1.75)])
def test_plasma(side, decay):
    """Point after point on a torus, with the same numbers in the order of the grids."""
    generator = seeded()
    heights, step, wobble = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half, grid = step // 2, side // step
        draws = [(2 * torch.rand(1, grid, grid, generator=generator)[0] - 1).numpy() * wobble**2 for _ in range(3)]
        kinds = (
            (half, half, ((-half, -half), (-half, half), (half, -half), (half, half))),
            (0, half, ((0, -half), (0, half), (-half, 0), (half, 0))),
            (half, 0, ((0, -half), (0, half), (-half, 0), (half, 0))),
        )
        for draw, (first_row, first_column, around) in zip(draws, kinds, strict=True):
            for i in range(grid):
                for j in range(grid):
                    y, x = first_row + i * step, first_column + j * step
                    four = [heights[(y + dy) % side, (x + dx) % side] for dy, dx in around]
                    heights[y, x] = sum(four) / 4 + draw[i, j]
        step, wobble = half, wobble / decay
    expected = (heights - heights.min()) / (heights.max() - heights.min())
    np.testing.assert_allclose(plasma(1, side, decay, seeded())[0], expected, atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog(severity):
    thickness, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    images = photographs()
    clouds = plasma(len(images), 32, decay, seeded()).double().numpy()

    def foggy(number, image):
        return (image + thickness * clouds[number][:, :, None]) * image.max() / (image.max() + thickness)

    assert_near(CORRUPTIONS["fog"](images, severity, seeded()), last(images, foggy))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness(severity):
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    images = photographs(1)
    images[0, :, 0, :4] = torch.tensor([[0, 255, 255, 1], [0, 255, 0, 0], [0, 255, 128, 0]])

    def brighter(_, image):
        def pixel(colour):
            hue, saturation, value = colorsys.rgb_to_hsv(*colour)
            return colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))

        return np.apply_along_axis(pixel, 2, image)

    assert_near(CORRUPTIONS["brightness"](images, severity, seeded()), last(images, brighter))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast(severity):
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    images = photographs()

    def paler(_, image):
        return kept * image + (1 - kept) * image.reshape(-1, 3).mean(0)

    assert_near(CORRUPTIONS["contrast"](images, severity, seeded()), last(images, paler))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 64])
def test_elastic_transform(severity, size):
    """The affine map as SciPy has it, in rows and columns and from its matrix; SciPy's fields and its interpolation."""
    amplitude, sigma, moved = (
        *((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06)),
        *((0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    )[severity - 1]
    images, generator = photographs(size=size), seeded()
    shifts = size * moved * (2 * torch.rand(len(images), 3, 2, generator=generator).double().numpy() - 1)
    noise = 2 * torch.rand(len(images), 2, size, size, generator=generator).double().numpy() - 1
    middle, third = size // 2, size // 3
    points = np.array([[1.0, 1], [1, -1], [-1, -1]]) * third + middle
    y, x = np.mgrid[:size, :size].astype(float)

    def elastic(number, image):
        forward = np.linalg.solve(np.c_[points, np.ones(3)], points + shifts[number])  # (x, y, 1) -> (x, y)
        inverse = np.linalg.inv(np.c_[forward, [0, 0, 1]])[:, :2]
        sources = np.stack([x, y, np.ones_like(x)], 2) @ inverse
        image = each_channel(image, sources[:, :, 1], sources[:, :, 0], "mirror")
        if amplitude:
            right, down = (
                size * amplitude * ndimage.gaussian_filter(field, size * sigma, mode="reflect", truncate=3)
                for field in noise[number]
            )
            image = each_channel(image, y + down, x + right, "reflect")
        return image

    found = CORRUPTIONS["elastic_transform"](images, severity, seeded())
    assert_near(found, last(images, elastic), off_by=2, share=0.02)


def each_channel(image: np.ndarray, y: np.ndarray, x: np.ndarray, mode: str) -> np.ndarray:
    """An image [H, W, C] looked up at these places by SciPy."""
    return np.stack(
        [ndimage.map_coordinates(channel, [y, x], order=1, mode=mode) for channel in image.transpose(2, 0, 1)], 2
    )


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate(severity, channels):
    """The mean over the pixels whose middle lies in the box, along each axis."""
    small = int(32 * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])

    def box(into: int, of: int) -> np.ndarray:
        scale = of / into
        support = max(scale, 1) / 2
        middles = (np.arange(into) + 0.5) * scale
        distance = np.arange(of) + 0.5 - middles[:, None]
        within = ((distance > -support) & (distance <= support)).astype(float)
        return within / within.sum(1, keepdims=True)

    images = photographs(channels=channels)
    down, up = box(small, 32), box(32, small)
    whole = up @ down @ images.double().numpy() @ down.T @ up.T
    found = CORRUPTIONS["pixelate"](images, severity, seeded())
    assert np.abs(found.numpy() - whole).max() <= 1.5
    noise = torch.randint(256, images.shape, generator=seeded(), dtype=torch.uint8)
    for dim in (2, 3):
        assert CORRUPTIONS["pixelate"](noise, severity, seeded()).unique(dim=dim).shape[dim] == small


# Recommendation ITU-T T.81, table K.1.
LUMINANCE = """
16 11 10 16  24  40  51  61
12 12 14 19  26  58  60  55
14 13 16 24  40  57  69  56
14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77
24 35 55 64  81 104 113  92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103  99
"""


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_compression(severity):
    """Of grey images by the cosine transform of blocks of 8x8 and the standard's table, scaled as libjpeg does it."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
    table = np.floor((np.array(LUMINANCE.split(), float).reshape(8, 8) * scale + 50) / 100)
    images = photographs(channels=1)
    blocks = images.double().numpy().reshape(-1, 4, 8, 4, 8).transpose(0, 1, 3, 2, 4) - 128
    steps = fft.dctn(blocks, axes=(3, 4), norm="ortho") / table
    kept = np.sign(steps) * np.floor(np.abs(steps) + 0.5 + 1e-9) * table
    pixels = np.round(fft.idctn(kept, axes=(3, 4), norm="ortho") + 128).clip(0, 255)
    expected = torch.from_numpy(pixels.transpose(0, 1, 3, 2, 4).reshape(images.shape).astype(np.uint8))
    found = CORRUPTIONS["jpeg_compression"](images, severity, seeded())
    off = ((found.int() - expected.int()).abs() > 1).float().mean()  # where a coefficient lies between two steps
    assert off < 0.05
    in_colour = CORRUPTIONS["jpeg_compression"](images.expand(-1, 3, -1, -1), severity, seeded())
    assert_near(in_colour, found.expand(-1, 3, -1, -1), share=0.02)


@pytest.mark.parametrize("pixels", [-8, -1, 0, 3, 8])
def test_translation(pixels):
    images = photographs(size=32)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 0), (8, 8)), mode="reflect")
    assert (translated(images, pixels).numpy() == padded[..., 8 - pixels : 40 - pixels]).all()


@pytest.mark.parametrize("degrees", [-30, -5, 0, 10, 90])
@pytest.mark.parametrize("size", [32, 33])
def test_rotation(degrees, size):
    images = photographs(size=size)
    expected = ndimage.rotate(images.double().numpy(), degrees, axes=(3, 2), reshape=False, order=1, mode="mirror")
    expected = torch.from_numpy(expected).round().to(torch.uint8)
    assert_near(rotated(images, degrees), expected)


def test_a_quarter_turn_is_counter_clockwise():
    images = photographs()
    assert torch.equal(rotated(images, 90), images.rot90(1, (2, 3)))
