"""Image operations in batches, and torchvision's on one image at a time: python -m bench.augment

Each side makes shuffled, normalised batches of 128 from bytes in memory: ours in this process with `--workers`
threads, torchvision's in a DataLoader with as many workers. Of torchvision's forms, the one that its
documentation recommends is timed (transforms.v2 on uint8 tensors), and the one of all (transforms.v2 or
transforms, on uint8 tensors or on PIL images) that is fastest in a short trial.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from bench.timing import interleaved, rate, surroundings
from data.augmentation import Operation
from data.augmentation.aug_mix import AugMix
from data.augmentation.auto_augment import AutoAugment
from data.augmentation.color_jitter import ColorJitter
from data.augmentation.cutout import Cutout
from data.augmentation.rand_augment import RandAugment
from data.augmentation.random_crop import RandomCrop
from data.augmentation.random_erasing import RandomErasing
from data.augmentation.random_flip import RandomFlip
from data.augmentation.scale_jitter import ScaleJitter
from data.augmentation.trivial_augment import TrivialAugment
from data.dataset import Images
from data.loader import Normalize, TrainLoader
from data.shapes import shapes

SIZE, BATCH_SIZE = 32, 128
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
RECOMMENDED = "v2, tensor"  # by torchvision's documentation
FORMS = {"v2, tensor": (v2, False), "v2, PIL": (v2, True), "v1, tensor": (v1, False), "v1, PIL": (v1, True)}


def cutout(image: Tensor) -> Tensor:
    """Torchvision has none; this is the cheapest of those that are about. [C, H, W] -> [C, H, W]."""
    top, left = torch.randint(SIZE, (2,)).tolist()
    image[:, max(0, top - 8) : top + 8, max(0, left - 8) : left + 8] = 0
    return image


@dataclass(frozen=True)
class Row:
    """A line of the table: our operations, and torchvision's from one of its two modules.

    Both sides normalise the images; `afterwards` runs after that.
    """

    operations: Sequence[Operation]
    torchvisions: Callable[[ModuleType], list[Any]]
    afterwards: Callable[[ModuleType], list[Any]] = lambda module: []


def crop_and_flip(module: ModuleType) -> list[Any]:
    """What nearly everybody trains with on CIFAR."""
    return [module.RandomCrop(SIZE, padding=4), module.RandomHorizontalFlip()]


CROP, FLIP = RandomCrop(4), RandomFlip(0.5)
ERASING = RandomErasing(probability=0.5, smallest=0.02, largest=0.4, aspect=0.3, fill="mean")
JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)
ROWS = {
    "crop, flip": Row([CROP, FLIP], crop_and_flip),
    "crop, flip, cutout": Row([CROP, FLIP, Cutout(length=16)], crop_and_flip, lambda module: [cutout]),
    "crop, flip, random_erasing": Row(
        [CROP, FLIP, ERASING], crop_and_flip, lambda module: [module.RandomErasing(0.5, (0.02, 0.4), (0.3, 1 / 0.3))]
    ),
    "trivial_augment": Row([TrivialAugment()], lambda module: [module.TrivialAugmentWide()]),
    "crop, flip, trivial_augment, cutout": Row(
        [CROP, FLIP, TrivialAugment(), Cutout(length=16)],
        lambda module: [*crop_and_flip(module), module.TrivialAugmentWide()],
        lambda module: [cutout],
    ),
    "rand_augment": Row([RandAugment(operations=2, magnitude=9)], lambda module: [module.RandAugment(2, 9)]),
    "auto_augment": Row([AutoAugment()], lambda module: [module.AutoAugment(module.AutoAugmentPolicy.CIFAR10)]),
    "aug_mix": Row([AugMix(severity=3, chains=3, depth=3)], lambda module: [module.AugMix(all_ops=False)]),
    "color_jitter": Row([JITTER], lambda module: [module.ColorJitter(0.4, 0.4, 0.4)]),
    "color_jitter, hue=0.1": Row([replace(JITTER, hue=0.1)], lambda module: [module.ColorJitter(0.4, 0.4, 0.4, 0.1)]),
    "scale_jitter": Row(
        [ScaleJitter(smallest=1.0, largest=1.25)], lambda module: [v2.RandomResize(SIZE, 41), v2.RandomCrop(SIZE)]
    ),
}


def batched(row: Row, images: Tensor) -> Callable[[], int]:
    """Our side: a function that sends all images through in batches, each image once, in a new order."""
    loader = TrainLoader(
        Images(images, torch.zeros(len(images), dtype=torch.int64)),
        batch_size=BATCH_SIZE,
        operations=row.operations,
        normalize=Normalize(MEAN, STD, images.device, torch.channels_last),
        num_classes=1,
        seed=0,
    )
    return lambda: sum(len(batch) for batch, _ in loader.epoch(0))


class OneByOne(Dataset):
    """Torchvision's side: images that are transformed when they are asked for."""

    def __init__(self, row: Row, form: str, images: Tensor):
        module, pil = FORMS[form]
        self.given = [v2.functional.to_pil_image(image) for image in images] if pil else list(images)
        to_tensor = [module.PILToTensor()] if pil else []
        to_float = v1.ConvertImageDtype(torch.float32) if module is v1 else v2.ToDtype(torch.float32, scale=True)
        normalized = [*to_tensor, to_float, module.Normalize(MEAN, STD)]
        self.chain = module.Compose([*row.torchvisions(module), *normalized, *row.afterwards(module)])

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> Tensor:
        return self.chain(self.given[index])


def fastest(row: Row, images: Tensor) -> str:
    """The fastest of torchvision's forms, in this process."""

    def trial(form: str) -> float:
        dataset = OneByOne(row, form, images[:100])
        runs = [rate(lambda: sum(1 for _ in map(dataset.__getitem__, range(100)))) for _ in range(4)]
        return max(runs)

    return max(FORMS, key=trial)


def compare(row: Row, images: Tensor, *, workers: int, rounds: int) -> tuple[float, float, float, str]:
    """Median rates: ours, torchvision's recommended form and its fastest one; and which that is."""
    form = fastest(row, images)

    def one_by_one(form: str) -> Callable[[], int]:
        dataset = OneByOne(row, form, images)
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=True)
        return lambda: sum(len(batch) for batch in loader)

    sides = [batched(row, images), *map(one_by_one, dict.fromkeys([RECOMMENDED, form]))]
    rates = interleaved(sides, rounds=rounds)
    return rates[0], rates[1], rates[-1], form


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.augment", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="processes of torchvision's side, threads of ours")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side, in turns")
    parser.add_argument("--images", type=int, default=8192, help="in each timing")
    parser.add_argument("names", nargs="*", metavar="row", help="lines of the table, by default all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.workers)
    data = shapes(classes=10, train_size=arguments.images, test_size=1, image_size=SIZE, clutter=1.0, seed=0)
    print(f"{surroundings(arguments.workers)}; images of {SIZE}x{SIZE}, a second\n")
    print(f"| operations | batched | {RECOMMENDED} | ratio | fastest form | | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: |")
    for name in arguments.names or ROWS:
        row = ROWS[name]
        ours, recommended, best, form = compare(
            row, data.train.images, workers=arguments.workers, rounds=arguments.rounds
        )
        figures = (
            f"{ours:,.0f} | {recommended:,.0f} | {ours / recommended:.1f} | {best:,.0f} | {form} | {ours / best:.1f}"
        )
        print(f"| {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
