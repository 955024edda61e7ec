"""Grad-CAM: the places of an image that speak for a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, arXiv 1610.02391.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Images
from data.loader import Normalize
from engine.build.from_checkpoint import EvalData, Trained
from engine.device.precision import Precision
from engine.evaluation import metrics
from engine.evaluation.evaluate import predict
from engine.report.explain.chosen import first_of_each, shown_classes
from engine.report.parts import Part, Section, Tile, embedded_pixels, watched
from engine.run.console import percent

RIGHT = 2  # images of each class, rightly answered

MISTAKES = 12

AT_ONCE = 8  # images whose maps are kept for the backward pass

LARGEST = 96  # pixels a side of an image that is shown; larger ones are averaged

DECIMALS = 4

COLOURS = "viridis"  # evenly bright steps, also for the colour-blind


@dataclass
class FeatureMap:
    """Values [B, C, H, W] and where in the network they were seen."""

    values: Tensor | None = None
    place: str = ""


@contextmanager
def last_map(model: nn.Module) -> Iterator[FeatureMap]:
    """Within, the last feature map, of more than one place each way, that has come into a module or out of one.

    In any network that is what its head reduces to the classes: whatever the modules are called, and whether an
    activation behind the last block is a module or a function. The images are the map of a network without any.
    """
    last = FeatureMap()

    def see(tensor: Any, place: str) -> None:
        is_map = isinstance(tensor, Tensor) and tensor.ndim == 4 and min(tensor.shape[2:]) > 1
        if is_map and tensor is not last.values:  # the same map leaves a block, then its stage
            last.values, last.place = tensor, place

    handles = []
    for name, module in model.named_modules():
        into, out = f"into {name or 'the network'}", f"out of {name or 'the network'}"
        handles.append(module.register_forward_pre_hook(lambda _, inputs, place=into: see(inputs[0], place)))
        handles.append(module.register_forward_hook(lambda _, inputs, output, place=out: see(output, place)))
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def class_maps(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    """The map of one class (int64 [B]) for each image (normalised, float32 [B, C, H, W]), and its place.

    Maps, float32 [B, h, w], are as large as the network's last ones, which are weighed by the gradients of the
    logit of the class averaged over all places (eq. 1), summed, and cut off at 0 (eq. 2).
    """
    with torch.enable_grad(), last_map(model.eval()) as last:
        scores = model(images.detach().requires_grad_()).gather(1, classes[:, None])
        (gradients,) = torch.autograd.grad(scores.sum(), last.values)
    weights = gradients.mean((2, 3), keepdim=True)
    return F.relu((weights * last.values).sum(1)).detach(), last.place


@dataclass(frozen=True)
class GradCamResult:
    """A test image by its number, what it is, what it was taken for with which probability, and maps by their class.

    Maps, float64 [h, w], go from 0 to 1, their largest value, in DECIMALS; where nothing speaks for the class all is 0.
    """

    number: int
    label: str
    taken: str
    probability: float
    maps: Mapping[str, np.ndarray]

    @property
    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "image": self.number,
            "class": self.label,
            "taken_for": self.taken,
            "probability": self.probability,
            "maps": {name: values.tolist() for name, values in self.maps.items()},
        }


def grad_cam(trained: Trained, images: EvalData) -> Part:
    """What spoke for the answers to some test images; the answers are those to the image itself, in fp32."""
    precision = Precision("fp32", trained.precision.device)
    precision.set_fp32_products()  # which training, or another network, may have had otherwise
    batches = watched(images.test, "Grad-CAM", "batch")
    logits, labels = (values.numpy() for values in predict(trained.model, batches, precision=precision))
    taken = metrics.predicted(logits)
    answered = np.where(taken == labels, labels, -1)
    firsts = first_of_each(answered, shown_classes(labels, len(trained.classes)), RIGHT)
    surest = metrics.surest_mistakes(labels, taken, metrics.confidence(logits))[:MISTAKES].tolist()
    looked, place = looks(trained, images.test.images, logits, [*firsts, *surest])
    right, wrong = looked[: len(firsts)], looked[len(firsts) :]
    side = " x ".join(map(str, next(iter(looked[0].maps.values())).shape))
    return Part(
        "grad_cam",
        {"place": place, "right": [one.content for one in right], "mistakes": [one.content for one in wrong]},
        [f"Grad-CAM of the maps {place}, {side}: {len(right)} right answers and {len(wrong)} mistakes, in report.html"],
        list(sections(right, wrong, images.test.images, f"{place}, {side}")),
    )


def looks(
    trained: Trained, images: Images, logits: np.ndarray, numbers: Sequence[int]
) -> tuple[list[GradCamResult], str]:
    """What the images of these numbers were taken for, with the maps for that and for what they are; their place."""
    names, labels, taken = trained.classes, images.labels.tolist(), metrics.predicted(logits).tolist()
    sure = np.exp(metrics.log_probabilities(logits).max(1))
    asked = [(number, name) for number in numbers for name in dict.fromkeys((taken[number], labels[number]))]
    maps, place = asked_maps(trained.model, images, trained.normalize, asked)
    looked = [
        GradCamResult(
            number=number,
            label=names[labels[number]],
            taken=names[taken[number]],
            probability=float(sure[number]),
            maps={names[name]: maps[number, name] for name in dict.fromkeys((taken[number], labels[number]))},
        )
        for number in numbers
    ]
    return looked, place


def asked_maps(
    model: nn.Module, images: Images, normalize: Normalize, asked: Sequence[tuple[int, int]]
) -> tuple[dict[tuple[int, int], np.ndarray], str]:
    """The map, as `Looked` has it, for each pair of an image's and a class's number, and the place of all."""
    found, place = {}, ""
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        numbers, classes = torch.tensor(some, device=images.labels.device).unbind(1)
        maps, place = class_maps(model, normalize(images.images[numbers]), classes)
        largest = maps.amax((1, 2), keepdim=True)
        scaled = torch.where(largest > 0, maps / largest, 0).cpu().numpy().astype(float).round(DECIMALS)
        found |= dict(zip(some, scaled, strict=True))
    return found, place


def sections(
    right: Sequence[GradCamResult], wrong: Sequence[GradCamResult], images: Images, place: str
) -> Iterator[Section]:
    """Tiles of the images, with how to read them."""
    note = (
        f"Bright: what in the network's last maps ({place}) raises the logit of the class (Grad-CAM). Each map "
        "goes from dark, nothing, to bright, its own largest value: maps tell where, not how much. Below, how sure the "
        "network was."
    )
    if right:
        first = "The first images of a class that were answered rightly, each with its map for that class. "
        yield Section("Where it looks: right answers", first + note, tiles=[tile(one, images) for one in right])
    if wrong:
        first = "The surest mistakes, each with the map for what it was taken for, then with that for what it is. "
        yield Section("Where it looks: surest mistakes", first + note, tiles=[tile(one, images) for one in wrong])


def tile(looked: GradCamResult, images: Images) -> Tile:
    """An image with its maps, what it is, what it was taken for if that differs, and how surely."""
    pixels = images.images[looked.number].cpu()
    pixels = F.avg_pool2d(pixels.float(), -(-max(pixels.shape[1:]) // LARGEST)).round().to(torch.uint8).numpy()
    picture = side_by_side(pixels, *(overlay(pixels, values) for values in looked.maps.values()))
    mistaken = looked.taken if looked.taken != looked.label else ""
    return Tile(embedded_pixels(picture), (looked.label, mistaken, percent(looked.probability)))


def overlay(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map, float [h, w] from 0 to 1, in colours over an image uint8 [C, H, W] in grey: uint8 [3, H, W]."""
    from matplotlib import colormaps

    spread = F.interpolate(torch.from_numpy(values)[None, None], pixels.shape[1:], mode="bilinear", align_corners=False)
    colours = 255 * colormaps[COLOURS](spread[0, 0].numpy())[..., :3].transpose(2, 0, 1)
    return (0.4 * pixels.mean(0) + 0.6 * colours).round().astype(np.uint8)


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [1 or 3, H, W] in a row with a white line between them: uint8 [3, H, W']."""
    line = np.full((3, pictures[0].shape[1], 1), 255, np.uint8)
    row = [part for one in pictures for part in (np.broadcast_to(one, (3, *one.shape[1:])), line)]
    return np.concatenate(row[:-1], axis=2)
