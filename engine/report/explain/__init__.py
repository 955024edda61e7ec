"""Explanations of a network: Grad-CAM, its attention weights, the filters of its first layer."""

from engine.build.from_checkpoint import EvalData, Trained
from engine.report.explain.attention import attention_weights
from engine.report.explain.filters import first_filters
from engine.report.explain.gradcam import grad_cam
from engine.report.parts import Part


def explain(trained: Trained, images: EvalData) -> list[Part]:
    """Parts of a report on one network; attention and filters only if it has them."""
    parts = [grad_cam(trained, images), attention_weights(trained, images), first_filters(trained)]
    return [part for part in parts if part.sections]
