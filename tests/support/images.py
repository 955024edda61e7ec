"""Numbered random images, to follow each through a loader."""

import torch

from data.augmentation.random_crop import RandomCrop
from data.augmentation.random_flip import RandomFlip
from data.dataset import Images
from data.loader import Normalize

MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


NORMALIZE = Normalize(MEAN, STD, torch.device("cpu"), torch.contiguous_format)


def numbered(count: int = 50) -> Images:
    """Random images whose labels are their numbers."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Images(images, torch.arange(count))


OPERATIONS = (RandomCrop(4), RandomFlip(0.5))
