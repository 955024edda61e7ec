"""How well a network does on labelled images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.distributed import Ranks
from engine.machine import Precision
from engine.tta import Views, as_it_is, mean_logits


@dataclass(frozen=True)
class Evaluation:
    """Figures over all images: cross-entropy in nats, accuracies as shares of 1."""

    loss: float
    accuracy: float
    top5_accuracy: float
    class_accuracy: Sequence[float | None]  # None for a class without images
    images: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    views: Views = as_it_is,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate `model` (left in evaluation mode) on batches (images float32 [B, C, H, W], labels int64 [B]).

    With other `views` by the mean of its answers to them. Sums stay on the device until the end. Of several
    `ranks` each has batches of its own, and all get the figures of all of them.
    """
    model.eval()
    loss, top5, seen, correct = 0.0, 0, 0, 0
    for images, labels in batches:
        with precision.autocast():
            logits = mean_logits(model, images, views)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        best = logits.topk(min(5, logits.shape[1])).indices
        hits = best == labels[:, None]
        one_hot = F.one_hot(labels, logits.shape[1])
        top5, seen, correct = top5 + hits.sum(), seen + one_hot.sum(0), correct + (one_hot * hits[:, :1]).sum(0)
    if ranks:
        loss, top5, seen, correct = (ranks.sum(value) for value in (loss, top5, seen, correct))
    images = int(seen.sum())
    return Evaluation(
        loss=float(loss) / images,
        accuracy=int(correct.sum()) / images,
        top5_accuracy=int(top5) / images,
        class_accuracy=[
            right / total if total else None for right, total in zip(correct.tolist(), seen.tolist(), strict=True)
        ],
        images=images,
    )
