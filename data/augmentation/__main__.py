"""Plot what each image operation does: python -m data.augmentation sheet.png [image ...]

Each row shows the same images after one operation of conf/regularization/, with the settings of its file.
Without images, generated shapes are used.
"""

import argparse
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor

from data.augmentation import PHASES, Operation, in_order
from data.augmentation.random_crop import RandomCrop
from data.augmentation.random_flip import RandomFlip
from data.dataset import DataError
from data.folder import read_image
from data.shapes import shapes

CONF = Path(__file__).resolve().parents[2] / "conf" / "regularization"
SIZE, ENLARGED, MARGIN, TEXT = 32, 64, 4, 120


def offered() -> dict[str, Operation]:
    """The operations of conf/ by name, in the order in which they run."""
    operations: dict[str, Operation] = {"crop": RandomCrop(4), "flip": RandomFlip(0.5)}
    for file in CONF.glob("*.yaml"):
        settings = yaml.safe_load(file.read_text())["regularization"][file.stem]
        module, _, name = settings.pop("_target_", "").rpartition(".")
        if module.startswith("data.augmentation."):
            operations[file.stem] = getattr(import_module(module), name)(**settings)
    return in_order(operations)


def show(operation: Operation, images: Tensor, generator: torch.Generator) -> Tensor:
    """Images after an operation, uint8 [B, C, H, W]; if it runs after normalisation, its input is in [-1, 1]."""
    uniform = torch.rand(len(images), operation.draws, generator=generator)
    operation = operation.prepared(images)
    if operation.phase != PHASES[-1]:
        return operation(images, uniform)
    return (operation(images / 127.5 - 1, uniform) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def contact_sheet(images: Tensor) -> Image.Image:
    """A row with the images, uint8 [B, 3, H, W], and one after each operation."""
    generator = torch.Generator().manual_seed(0)
    rows = {"original": images}
    rows |= {name: show(operation, images, generator) for name, operation in offered().items()}
    step = ENLARGED + MARGIN
    sheet = Image.new("RGB", (TEXT + step * len(images), step * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, row) in enumerate(rows.items()):
        draw.text((MARGIN, y * step + ENLARGED // 2), name, "black", anchor="lm")
        for x, image in enumerate(row):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            sheet.paste(picture.resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST), (TEXT + x * step, y * step))
    return sheet


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(prog="python -m data.augmentation", description=__doc__.partition("\n")[0])
    parser.add_argument("sheet", type=Path, help="PNG file to write; must not exist")
    parser.add_argument("images", nargs="*", type=Path, metavar="image", help="image to show, resized to 32x32 pixels")
    arguments = parser.parse_args()
    if arguments.sheet.suffix != ".png" or arguments.sheet.exists() or not arguments.sheet.parent.is_dir():
        parser.error(f"{arguments.sheet}: must be a new .png file in an existing directory")
    try:
        pixels = np.stack([read_image(file, SIZE) for file in arguments.images]) if arguments.images else None
    except DataError as error:
        parser.error(str(error))
    if pixels is None:
        images = shapes(classes=10, train_size=10, test_size=1, image_size=SIZE, clutter=0.5, seed=0).train.images
    else:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    contact_sheet(images).save(arguments.sheet, optimize=True)
    print(f"figure: {arguments.sheet}")


if __name__ == "__main__":
    main()
