"""Logits and labels to compute figures of: random and degenerate ones."""

import numpy as np

CLASSES = 7


def answers(kind: str, images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [N, K] and labels, random or degenerate."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, images)
    logits = rng.normal(0, 2, (images, CLASSES)).astype(np.float32)
    logits[np.arange(images), labels] += 2
    match kind:
        case "a class without images":
            labels[labels == 2] = 3
        case "a class that nothing is taken for":
            logits[:, 4] = -30
        case "all right":
            logits[np.arange(images), labels] += 100
        case "all wrong":
            logits[np.arange(images), labels] -= 100
        case "ties":
            logits = np.round(logits / 4)
        case "no difference between classes":
            logits[:] = 0
        case "a single image":
            labels, logits = labels[:1], logits[:1]
        case "large logits":
            logits *= 1e4
    return logits, labels


KINDS = (
    "random",
    "a class without images",
    "a class that nothing is taken for",
    "all right",
    "all wrong",
    "ties",
    "no difference between classes",
    "a single image",
    "large logits",
)
