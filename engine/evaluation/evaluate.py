"""How well a network does on labelled images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.device.precision import Precision
from engine.distributed.ranks import ALONE, Ranks
from engine.evaluation.tta import Views, as_it_is, mean_logits


@dataclass(frozen=True)
class Evaluation:
    """Figures over all images: cross-entropy in nats, accuracies as shares of 1.

    And of each image that this process has seen the class that it was taken for, int64 [N], and how probable the
    network thought that, float32 [N]; both in main memory.
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

    With other `views` by the mean of its answers to them. Sums stay on the device until the end. Of several
    `ranks` each has batches of its own, and all get the figures of all of them.
    """
    loss, correct, top5, seen = 0.0, 0, 0, 0
    predicted, confidence = [], []
    for logits, labels in batches_of_answers(model, batches, precision, views):
        place = label_rank(logits, labels)
        loss, seen = loss + F.cross_entropy(logits, labels, reduction="sum"), seen + len(labels)
        correct, top5 = correct + (place < 1).sum(), top5 + (place < 5).sum()
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
    """At which place each image's class stands among all, by its logit: 0 is the first; int64 [B].

    Equal logits, which are frequent in bf16, stand in the order of the classes, so that evaluation comes to
    the same on any device; a logit that is no number stands last.
    """
    own, classes = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - behind.sum(1)


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    views: Views = as_it_is,
) -> tuple[Tensor, Tensor]:
    """What `model` says of each image: logits float32 [N, K] and, beside them, labels int64 [N], in main memory."""
    logits, labels = zip(*batches_of_answers(model, batches, precision, views), strict=True)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def batches_of_answers(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision, views: Views
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (logits float32 [B, K], labels int64 [B]) of `model` in evaluation mode."""
    model.eval()
    for images, labels in batches:
        with precision.autocast():
            logits = mean_logits(model, images, views)
        yield logits, labels
