"""Image operations in batches beside torchvision's on one image at a time: python -m bench.augment

Each side makes shuffled batches of 128 from images in memory: ours in this process with `--workers`
threads, torchvision's in a DataLoader with as many workers. Of torchvision's forms (transforms.v2 or
transforms, on uint8 tensors or on PIL images), the one that is fastest in a short trial is timed.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

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
FORMS = {"v2, tensor": (v2, False), "v2, PIL": (v2, True), "v1, tensor": (v1, False), "v1, PIL": (v1, True)}


def cutout(image: Tensor) -> Tensor:
    """Torchvision has none; this is the cheapest of those that are about. [C, H, W] -> [C, H, W]."""
    top, left = torch.randint(SIZE, (2,)).tolist()
    image[:, max(0, top - 8) : top + 8, max(0, left - 8) : left + 8] = 0
    return image


@dataclass(frozen=True)
class Row:
    """A line of the table: our operations, and torchvision's from one of its two modules.

    With `normalised`, both sides end with normalised float32 images; `afterwards` runs behind that.
    """

    operations: Sequence[Operation]
    torchvisions: Callable[[ModuleType], list[Any]]
    normalised: bool = False
    afterwards: Callable[[ModuleType], list[Any]] = lambda module: []


def crop_and_flip(module: ModuleType) -> list[Any]:
    """What nearly everybody trains with on CIFAR."""
    return [module.RandomCrop(SIZE, padding=4), module.RandomHorizontalFlip()]


ROWS = {
    "crop, flip": Row([RandomCrop(4), RandomFlip(0.5)], crop_and_flip),
    "crop, flip, normalise": Row([RandomCrop(4), RandomFlip(0.5)], crop_and_flip, True),
    "crop, flip, normalise, cutout": Row(
        [RandomCrop(4), RandomFlip(0.5), Cutout(length=16)], crop_and_flip, True, lambda module: [cutout]
    ),
    "crop, flip, normalise, random_erasing": Row(
        [
            RandomCrop(4),
            RandomFlip(0.5),
            RandomErasing(probability=0.5, smallest=0.02, largest=0.4, aspect=0.3, fill="mean"),
        ],
        crop_and_flip,
        True,
        lambda module: [module.RandomErasing(0.5, (0.02, 0.4), (0.3, 1 / 0.3))],
    ),
    "trivial_augment": Row([TrivialAugment()], lambda module: [module.TrivialAugmentWide()]),
    "crop, flip, trivial_augment": Row(
        [RandomCrop(4), RandomFlip(0.5), TrivialAugment()],
        lambda module: [*crop_and_flip(module), module.TrivialAugmentWide()],
    ),
    "rand_augment": Row([RandAugment(operations=2, magnitude=9)], lambda module: [module.RandAugment(2, 9)]),
    "auto_augment": Row([AutoAugment()], lambda module: [module.AutoAugment(module.AutoAugmentPolicy.CIFAR10)]),
    "aug_mix": Row([AugMix(severity=3, chains=3, depth=3)], lambda module: [module.AugMix(all_ops=False)]),
    "color_jitter": Row(
        [ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)],
        lambda module: [module.ColorJitter(0.4, 0.4, 0.4)],
    ),
    "color_jitter with hue": Row(
        [ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
        lambda module: [module.ColorJitter(0.4, 0.4, 0.4, 0.1)],
    ),
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
        normalize=Normalize(MEAN, STD, images.device, torch.channels_last) if row.normalised else lambda images: images,
        num_classes=1,
        seed=0,
    )
    return lambda: sum(len(batch) for batch, _ in loader.epoch(0))


class OneByOne(Dataset):
    """Torchvision's side: images that are transformed when they are asked for."""

    def __init__(self, row: Row, form: str, images: Tensor):
        module, pil = FORMS[form]
        self.given = [v2.functional.to_pil_image(image) for image in images] if pil else list(images)
        steps = [*row.torchvisions(module), module.PILToTensor()] if pil else row.torchvisions(module)
        if row.normalised:
            to_float = v1.ConvertImageDtype(torch.float32) if module is v1 else v2.ToDtype(torch.float32, scale=True)
            steps = [*steps, to_float, module.Normalize(MEAN, STD), *row.afterwards(module)]
        self.chain = module.Compose(steps)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> Tensor:
        return self.chain(self.given[index])


def rate(run: Callable[[], int]) -> float:
    """Images a second of a function that returns how many it has made."""
    begin = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - begin)


def fastest(row: Row, images: Tensor) -> str:
    """The fastest of torchvision's forms, in this process."""

    def trial(form: str) -> float:
        dataset = OneByOne(row, form, images[:100])
        runs = [rate(lambda: sum(1 for _ in map(dataset.__getitem__, range(100)))) for _ in range(4)]
        return max(runs)

    return max(FORMS, key=trial)


def compare(row: Row, images: Tensor, *, workers: int, rounds: int) -> tuple[float, float, str]:
    """Median rates, ours and torchvision's, and the form of the latter."""
    form = fastest(row, images)
    ours, one_by_one = batched(row, images), OneByOne(row, form, images)
    loader = DataLoader(one_by_one, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=True)

    def theirs() -> int:
        return sum(len(batch) for batch in loader)

    ours(), theirs()  # the first of everything costs more
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    our_rate, their_rate = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    return our_rate, their_rate, form


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
    print(f"{platform.machine()}, {arguments.workers} workers or threads, Python {platform.python_version()},")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}; images of {SIZE}x{SIZE}, a second\n")
    print("| operations | batched | one by one | fastest form | ratio |\n| --- | ---: | ---: | --- | ---: |")
    for name in arguments.names or ROWS:
        row = ROWS[name]
        ours, theirs, form = compare(row, data.train.images, workers=arguments.workers, rounds=arguments.rounds)
        print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {form} | {ours / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
