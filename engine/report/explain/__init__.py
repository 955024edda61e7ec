"""Where a network looks: Grad-CAM, the weights of its attention, the filters of its first layer."""

from engine.build.from_checkpoint import EvalData, Trained
from engine.report.explain.attention import attention_weights
from engine.report.explain.filters import first_filters
from engine.report.explain.gradcam import grad_cam
from engine.report.parts import Part


def explain(trained: Trained, images: EvalData) -> list[Part]:
    """Parts of a report on one network; of those on attention and filters as many as it has something to show for."""
    parts = [grad_cam(trained, images), attention_weights(trained, images), first_filters(trained)]
    return [part for part in parts if part.sections]
