"""Loss and accuracy of a network on labelled images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.device.amp import Precision
from engine.distributed.ranks import ALONE, Ranks
from engine.evaluation.tta import Views, as_it_is, mean_logits


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all images: cross-entropy in nats, accuracies between 0 and 1.

    `predicted` int64 [N] and `confidence` float32 [N] are the predicted class and its probability for each image
    that this process has evaluated; both in main memory.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    images: int
    predicted: Tensor = field(repr=False, compare=False)
    confidence: Tensor = field(repr=False, compare=False)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    views: Views = as_it_is,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluate `model` (left in evaluation mode) on batches (images float32 [B, C, H, W], labels int64 [B]).

    The logits are averaged over `views`. Sums stay on the device until the end. With several `ranks`, each has its
    own batches and all get the metrics over all images.
    """
    loss, correct, top5, seen = 0.0, 0, 0, 0
    predicted, confidence = [], []
    for logits, labels in logits_by_batch(model, batches, precision, views):
        rank = label_rank(logits, labels)
        loss, seen = loss + F.cross_entropy(logits, labels, reduction="sum"), seen + len(labels)
        correct, top5 = correct + (rank < 1).sum(), top5 + (rank < 5).sum()
        predicted.append(logits.argmax(1))
        confidence.append(logits.amax(1).sub_(logits.logsumexp(1)).exp_())
    loss, correct, top5, seen = ranks.sums(loss, correct, top5, seen)
    return Evaluation(
        loss=float(loss) / seen,
        accuracy=int(correct) / seen,
        top5_accuracy=int(top5) / seen,
        images=int(seen),
        predicted=torch.cat(predicted).cpu() if predicted else torch.empty(0, dtype=torch.int64),
        confidence=torch.cat(confidence).cpu() if confidence else torch.empty(0),
    )


def label_rank(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank of each image's label among the logits; 0 is the largest; int64 [B].

    Equal logits, which are frequent in bf16, are ranked by class index, so that the result is the same on every
    device; a NaN ranks last.
    """
    own, classes = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
    after = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - after.sum(1)


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    views: Views = as_it_is,
) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, K] of `model` and labels int64 [N], in main memory."""
    logits, labels = zip(*logits_by_batch(model, batches, precision, views), strict=True)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def logits_by_batch(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision, views: Views
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits float32 [B, K], labels int64 [B]) of `model` in evaluation mode."""
    model.eval()
    for images, labels in batches:
        with precision.autocast():
            logits = mean_logits(model, images, views)
        yield logits, labels
