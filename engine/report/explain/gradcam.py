"""Grad-CAM: which positions of an image raise the logit of a class.

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
from engine.device.amp import Precision
from engine.evaluation import metrics
from engine.evaluation.evaluate import predict
from engine.report.explain.examples import first_of_each, shown_classes
from engine.report.parts import Part, Section, Tile, embedded_pixels, progress_bar
from engine.run.console import percent

CORRECT = 2  # correctly classified images of each class

ERRORS = 12

BATCH_SIZE = 8

LARGEST = 96  # pixels a side of a shown image; larger images are average-pooled

DECIMALS = 4

COLOURS = "viridis"  # perceptually uniform, also for the colour-blind


@dataclass
class FeatureMap:
    """A feature map [B, C, H, W] and its location in the network."""

    values: Tensor | None = None
    layer: str = ""


@contextmanager
def last_map(model: nn.Module) -> Iterator[FeatureMap]:
    """Context that records the last feature map, larger than 1 x 1, that is an input or output of a module.

    In any network this is the input of its head, whatever the modules are called, and whether the last activation is a
    module or a function. For a network without feature maps it is the images.
    """
    last = FeatureMap()

    def record(tensor: Any, layer: str) -> None:
        is_map = isinstance(tensor, Tensor) and tensor.ndim == 4 and min(tensor.shape[2:]) > 1
        if is_map and tensor is not last.values:  # a block and its stage return the same map
            last.values, last.layer = tensor, layer

    handles = []
    for name, module in model.named_modules():
        into, out = f"into {name or 'the network'}", f"out of {name or 'the network'}"
        handles.append(module.register_forward_pre_hook(lambda _, inputs, layer=into: record(inputs[0], layer)))
        handles.append(module.register_forward_hook(lambda _, inputs, output, layer=out: record(output, layer)))
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def class_maps(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    """Grad-CAM map of one class (int64 [B]) for each image (normalised, float32 [B, C, H, W]), and its location.

    Maps float32 [B, h, w] have the size of the last feature map, whose channels are weighted by the spatially averaged
    gradient of the class's logit (eq. 1), summed, and clamped at 0 (eq. 2).
    """
    with torch.enable_grad(), last_map(model.eval()) as last:
        scores = model(images.detach().requires_grad_()).gather(1, classes[:, None])
        (gradients,) = torch.autograd.grad(scores.sum(), last.values)
    weights = gradients.mean((2, 3), keepdim=True)
    return F.relu((weights * last.values).sum(1)).detach(), last.layer


@dataclass(frozen=True)
class GradCamResult:
    """Index of a test image, its label, its predicted class with the probability, and Grad-CAM maps by class.

    Maps float64 [h, w] are scaled to a maximum of 1 and rounded to DECIMALS; a map without positive values is all 0.
    """

    number: int
    label: str
    predicted: str
    probability: float
    maps: Mapping[str, np.ndarray]

    @property
    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "image": self.number,
            "class": self.label,
            "predicted": self.predicted,
            "probability": self.probability,
            "maps": {name: values.tolist() for name, values in self.maps.items()},
        }


def grad_cam(trained: Trained, images: EvalData) -> Part:
    """Grad-CAM of some test images, for predictions without test-time augmentation, in fp32."""
    precision = Precision("fp32", trained.precision.device)
    precision.set_fp32_products()  # training, or another network, may have changed it
    batches = progress_bar(images.test, "Grad-CAM", "batch")
    logits, labels = (values.numpy() for values in predict(trained.model, batches, precision=precision))
    predicted = metrics.predicted(logits)
    correct = np.where(predicted == labels, labels, -1)
    firsts = first_of_each(correct, shown_classes(labels, len(trained.classes)), CORRECT)
    wrongs = metrics.most_confident_errors(labels, predicted, metrics.confidence(logits))[:ERRORS].tolist()
    results, layer = grad_cam_results(trained, images.test.images, logits, [*firsts, *wrongs])
    right, wrong = results[: len(firsts)], results[len(firsts) :]
    side = " x ".join(map(str, next(iter(results[0].maps.values())).shape))
    return Part(
        "grad_cam",
        {"layer": layer, "right": [one.content for one in right], "mistakes": [one.content for one in wrong]},
        [f"Grad-CAM, maps {layer}, {side}: {len(right)} correct predictions, {len(wrong)} errors, in report.html"],
        list(sections(right, wrong, images.test.images, f"{layer}, {side}")),
    )


def grad_cam_results(
    trained: Trained, images: Images, logits: np.ndarray, numbers: Sequence[int]
) -> tuple[list[GradCamResult], str]:
    """Results for the images with these indices, with maps of predicted class and label; and the maps' location."""
    names, labels, predicted = trained.classes, images.labels.tolist(), metrics.predicted(logits).tolist()
    sure = np.exp(metrics.log_probabilities(logits).max(1))
    asked = [(number, name) for number in numbers for name in dict.fromkeys((predicted[number], labels[number]))]
    maps, layer = scaled_maps(trained.model, images, trained.normalize, asked)
    results = [
        GradCamResult(
            number=number,
            label=names[labels[number]],
            predicted=names[predicted[number]],
            probability=float(sure[number]),
            maps={names[name]: maps[number, name] for name in dict.fromkeys((predicted[number], labels[number]))},
        )
        for number in numbers
    ]
    return results, layer


def scaled_maps(
    model: nn.Module, images: Images, normalize: Normalize, asked: Sequence[tuple[int, int]]
) -> tuple[dict[tuple[int, int], np.ndarray], str]:
    """The map, as in GradCamResult, for each pair of image index and class index; and the maps' location."""
    found, layer = {}, ""
    for start in range(0, len(asked), BATCH_SIZE):
        some = asked[start : start + BATCH_SIZE]
        numbers, classes = torch.tensor(some, device=images.labels.device).unbind(1)
        maps, layer = class_maps(model, normalize(images.images[numbers]), classes)
        largest = maps.amax((1, 2), keepdim=True)
        scaled = torch.where(largest > 0, maps / largest, 0).cpu().numpy().astype(float).round(DECIMALS)
        found |= dict(zip(some, scaled, strict=True))
    return found, layer


def sections(
    right: Sequence[GradCamResult], wrong: Sequence[GradCamResult], images: Images, layer: str
) -> Iterator[Section]:
    """Tiles of the images, with a note on how to read them."""
    note = (
        f"Bright: positions of the last feature map ({layer}) that raise the logit of the class (Grad-CAM). Each map "
        "is scaled to its own maximum: maps show where, not how much. Below: the confidence."
    )
    if right:
        first = "The first correctly classified images of each class, each with the map of that class. "
        yield Section("Grad-CAM: correct predictions", first + note, tiles=[tile(one, images) for one in right])
    if wrong:
        first = "The most confident errors, each with the map of the predicted class, then of the true class. "
        yield Section("Grad-CAM: most confident errors", first + note, tiles=[tile(one, images) for one in wrong])


def tile(results: GradCamResult, images: Images) -> Tile:
    """An image with its maps, its label, the predicted class if it differs, and the confidence."""
    pixels = images.images[results.number].cpu()
    pixels = F.avg_pool2d(pixels.float(), -(-max(pixels.shape[1:]) // LARGEST)).round().to(torch.uint8).numpy()
    picture = side_by_side(pixels, *(overlay(pixels, values) for values in results.maps.values()))
    mistaken = results.predicted if results.predicted != results.label else ""
    return Tile(embedded_pixels(picture), (results.label, mistaken, percent(results.probability)))


def overlay(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map float [h, w] from 0 to 1 as colours over a greyscale image uint8 [C, H, W]: uint8 [3, H, W]."""
    from matplotlib import colormaps

    spread = F.interpolate(torch.from_numpy(values)[None, None], pixels.shape[1:], mode="bilinear", align_corners=False)
    colours = 255 * colormaps[COLOURS](spread[0, 0].numpy())[..., :3].transpose(2, 0, 1)
    return (0.4 * pixels.mean(0) + 0.6 * colours).round().astype(np.uint8)


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [1 or 3, H, W] in a row with a white line between them: uint8 [3, H, W']."""
    line = np.full((3, pictures[0].shape[1], 1), 255, np.uint8)
    row = [part for one in pictures for part in (np.broadcast_to(one, (3, *one.shape[1:])), line)]
    return np.concatenate(row[:-1], axis=2)
