"""Generated images that need no download: coloured, textured, rotated, partly hidden shapes.

With 10 classes the class is the outline and the texture is random; with 100 it is the pair of
outline and texture. Position, size, rotation, colours, background, occlusion and noise are random for
each image, so that a network has to generalise. Images are determined by the seed.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import Dataset, Images

DIRECTIONS = 720  # angles in the table of an outline
SUPERSAMPLING = 2  # sub-pixels along each side of a pixel, for antialiasing
CHUNK = 512  # images rendered at once


def shapes(*, classes: int, train_size: int, test_size: int, image_size: int, clutter: float, seed: int) -> Dataset:
    """`train_size` and `test_size` images with balanced classes, from one seed.

    `classes` is 10 or 100; `clutter` is from 0 (a light shape on a plain dark background) to 1 (all
    distractions). Images are uint8 [N, 3, image_size, image_size].
    """
    generator = torch.Generator().manual_seed(seed)
    names = (
        list(OUTLINES) if classes == 10 else [f"{texture} {outline}" for outline in OUTLINES for texture in TEXTURES]
    )
    return Dataset(
        train=render(train_size, classes, image_size, clutter, generator),
        test=render(test_size, classes, image_size, clutter, generator),
        classes=names,
    )


def render(count: int, classes: int, image_size: int, clutter: float, generator: torch.Generator) -> Images:
    """`count` images with their labels in random order."""
    labels = (torch.arange(count) % classes)[torch.randperm(count, generator=generator)]
    images = [render_chunk(part, classes, image_size, clutter, generator) for part in labels.split(CHUNK)]
    return Images(torch.cat(images), labels)


def render_chunk(labels: Tensor, classes: int, image_size: int, clutter: float, generator: torch.Generator) -> Tensor:
    """Images for `labels` (int64 [B]) as uint8 [B, 3, S, S]; lengths are in units of half the image's side."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), *shape, 1, 1, generator=generator)

    texture = torch.randint(len(TEXTURES), labels.shape, generator=generator)
    if classes == 10:
        outline = labels
    else:
        outline, texture = labels // len(TEXTURES), labels % len(TEXTURES)

    # The shape: its outline in polar coordinates around its own centre.
    x, y = plane(image_size * SUPERSAMPLING)
    size, squeeze = draw(0.5, 0.85), draw(0.85, 1.18)
    dx, dy = x - draw(-0.2, 0.2), y - draw(-0.2, 0.2)
    along, across = rotate(dx, dy, draw(0, 2 * math.pi))
    along, across = along * squeeze, across / squeeze
    radius = torch.hypot(along, across) / size
    direction = (torch.atan2(across, along) / (2 * math.pi) % 1 * DIRECTIONS).long().clamp(max=DIRECTIONS - 1)
    inner, outer = outline_table()[outline].unbind(1)  # each [B, DIRECTIONS]
    edges = [edge.gather(1, direction.flatten(1)).view_as(radius) for edge in (inner, outer)]
    shape = coverage((radius >= edges[0]) & (radius < edges[1]))

    # The occlusion: a strip at a random angle, starting off the centre.
    toward, _ = rotate(dx, dy, draw(0, 2 * math.pi))
    near = size * draw(0.2, 0.8)
    strip = coverage((toward > near) & (toward < near + draw(0.1, 0.4)))

    x, y = plane(image_size)

    def paint(kind: Tensor, color: Tensor, contrast: float) -> Tensor:
        """A color [B, 3, 1, 1] and a lighter one, in a texture of the given kind (int64 [B]): [B, 3, S, S]."""
        u, v = rotate(x - draw(-1, 1), y - draw(-1, 1), draw(0, 2 * math.pi))
        frequency = draw(5.0, 9.0)
        u, v = u * frequency, v * frequency
        pattern = torch.empty_like(u)
        for index, function in enumerate(TEXTURES.values()):
            chosen = (kind == index).nonzero().squeeze(1)
            pattern[chosen] = function(u[chosen], v[chosen])
        return color + contrast * draw(0.05, 0.22, 3) * pattern[:, None]

    # The shape is lighter than the background: always without clutter, usually with it.
    ground, color = draw(0.0, 0.1 + 0.32 * clutter, 3), draw(0.7 - 0.42 * clutter, 0.78, 3)
    other = torch.randint(len(TEXTURES), (2, len(labels)), generator=generator)
    image = torch.lerp(paint(other[0], ground, clutter), paint(texture, color, 1.0), shape)
    image = torch.lerp(image, paint(other[1], draw(0.0, 0.7, 3), 1.0), clutter * strip)
    noise = clutter * torch.randn(image.shape, generator=generator) * draw(0.02, 0.07, 1)
    return ((image + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def plane(side: int) -> tuple[Tensor, Tensor]:
    """Coordinates x [1, side] and y [side, 1] of the pixels' centres, from -1 to 1."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return line[None, :], line[:, None]


def coverage(mask: Tensor) -> Tensor:
    """The fraction of each pixel that a mask of sub-pixels covers: bool [B, s*S, s*S] -> float [B, 1, S, S]."""
    return F.avg_pool2d(mask[:, None].float(), SUPERSAMPLING)


def rotate(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates of (x, y) along and across the direction `angle`."""
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


# Outlines: the radius as a function of the direction, with a maximum radius of 1.


def polygon(corners: list[tuple[float, float]]) -> Callable[[Tensor], Tensor]:
    """A polygon around the origin, from its corners (radius, angle in degrees) in ascending angles."""
    points = [
        (radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))) for radius, angle in corners
    ]

    def radius(angle: Tensor) -> Tensor:
        result = torch.full_like(angle, math.inf)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            # The ray from the origin meets the line through a and b at this distance ...
            distance = (ax * by - ay * bx) / (angle.cos() * (by - ay) - angle.sin() * (bx - ax))
            # ... and the segment between them if its angle is between theirs.
            within = (ax * angle.sin() - ay * angle.cos() >= -1e-6) & (bx * angle.sin() - by * angle.cos() <= 1e-6)
            result = torch.where(within & (distance > 0), torch.minimum(result, distance), result)
        return result

    return radius


def regular(corners: int) -> Callable[[Tensor], Tensor]:
    """A regular polygon."""
    return polygon([(1.0, 360 / corners * index) for index in range(corners)])


def star(points: int, inner: float) -> Callable[[Tensor], Tensor]:
    """A star whose inner corners are at the radius `inner`."""
    return polygon([(1.0 if index % 2 == 0 else inner, 180 / points * index) for index in range(2 * points)])


def cross(angle: Tensor) -> Tensor:
    """A plus sign with arms 0.6 wide."""
    c, s = angle.cos().abs(), angle.sin().abs()
    arms = torch.minimum(torch.minimum(0.95 / c, 0.3 / s).nan_to_num(0.95), torch.full_like(c, 0.95 * 1.05))
    beams = torch.minimum(torch.minimum(0.95 / s, 0.3 / c).nan_to_num(0.95), torch.full_like(c, 0.95 * 1.05))
    return torch.maximum(arms, beams)


OUTLINES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    # name: (outer radius by direction, inner radius as a fraction of it)
    "disk": (lambda angle: torch.full_like(angle, 0.85), 0.0),
    "triangle": (regular(3), 0.0),
    "square": (regular(4), 0.0),
    "hexagon": (regular(6), 0.0),
    "star": (star(5, 0.5), 0.0),
    "cross": (cross, 0.0),
    "ring": (lambda angle: torch.full_like(angle, 0.9), 0.55),
    "frame": (regular(4), 0.55),
    "dome": (lambda angle: torch.where(angle.cos() < -0.1, -0.1 / angle.cos(), 1.0).clamp(max=1.0), 0.0),
    "flower": (lambda angle: 0.72 + 0.26 * (4 * angle).cos(), 0.0),
}


def outline_table() -> Tensor:
    """Inner and outer radius of each outline in each direction: float32 [outlines, 2, DIRECTIONS]."""
    angle = (torch.arange(DIRECTIONS) + 0.5) / DIRECTIONS * 2 * math.pi
    outer = torch.stack([function(angle) for function, _ in OUTLINES.values()])
    inner = torch.tensor([share for _, share in OUTLINES.values()])[:, None] * outer
    return torch.stack([inner, outer], dim=1)


# Textures: a pattern between 0 and 1 over the plane; units are radians of the wave.
TEXTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda u, v: torch.zeros_like(u + v),
    "striped": lambda u, v: (torch.sin(u) > 0).float() + 0 * v,
    "checked": lambda u, v: (torch.sin(u) * torch.sin(v) > 0).float(),
    "dotted": lambda u, v: (torch.sin(u) * torch.sin(v) > 0.5).float(),
    "ringed": lambda u, v: (torch.sin(torch.hypot(u, v)) > 0).float(),
    "wavy": lambda u, v: (torch.sin(u + 1.5 * torch.sin(v)) > 0).float(),
    "ruled": lambda u, v: (torch.sin(1.5 * u) > 0.8).float() + 0 * v,
    "grid": lambda u, v: ((torch.sin(1.2 * u) > 0.75) | (torch.sin(1.2 * v) > 0.75)).float(),
    "shaded": lambda u, v: (0.5 + 0.5 * torch.sin(u / 4)) + 0 * v,
    "blotched": lambda u, v: (torch.sin(u) + torch.sin(0.7 * v + 2 * torch.sin(0.6 * u)) > 0).float(),
}
