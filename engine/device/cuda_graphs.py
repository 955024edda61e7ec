"""CUDA graph capture of a training step's forward and backward pass.

The kernels of a small network run for a few microseconds each, less than Python takes to launch the next, so that
most of a step is CPU overhead. Replaying a captured graph launches all kernels at once.
"""

import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from engine.device.buffers import keep_buffers
from engine.run.console import logger

Compute = Callable[[Tensor, Tensor], Tensor]

WARM_UP = 3  # eager batches of a shape before capture, for library initialisation and compilation


def discard_log(_: str) -> None:
    """Log nothing: a benchmark need not say that capture failed, since the run itself will."""


class CapturedGraph:
    """A CUDA graph of `compute` for one batch shape, with static input, output and gradient tensors."""

    def __init__(self, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor, pool: object):
        self.images, self.targets, self.parameters = images.clone(), targets.clone(), list(model.parameters())
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = compute(self.images, self.targets)
        self.gradients = [parameter.grad for parameter in self.parameters]

    def replay(self, images: Tensor, targets: Tensor) -> Tensor:
        """Replay the graph on a batch. The gradients are valid until the next replay."""
        self.images.copy_(images)
        self.targets.copy_(targets)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.result.clone()


class CudaGraphs:
    """Computes gradients by CUDA graphs, one per batch shape.

    The first batches of a shape run eagerly, and all batches do if capture is impossible, e.g. for lack of memory or
    because of a device synchronisation; this is logged once. Captured code must not depend on host memory that changes
    between steps.
    """

    def __init__(self, *, log: Callable[[str], None] = logger.info):
        self.log = log
        self.seen: dict[Hashable, int] = {}
        self.captured: dict[Hashable, CapturedGraph] = {}
        self.stream: torch.cuda.Stream | None = None
        self.enabled = True

    def __call__(self, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Run `compute` on a batch, eagerly or as a graph: it sets the gradients of `model` and returns a tensor."""
        shape = (*images.shape, *targets.shape)
        seen = self.seen.get(shape, 0)
        if self.enabled and seen == WARM_UP and shape not in self.captured:
            self.capture(shape, compute, model, images, targets)
        if shape in self.captured:
            return self.captured[shape].replay(images, targets)
        eager = self.checking_for_syncs if self.enabled and seen == WARM_UP - 1 else self.on_side_stream
        result = self.with_oom_fallback(eager, compute, model, images, targets)
        self.seen[shape] = seen + 1
        return result

    def with_oom_fallback(
        self, eager: Callable[..., Tensor], compute: Compute, model: nn.Module, images: Tensor, targets: Tensor
    ) -> Tensor:
        """Run eagerly; if memory runs out, free the graphs, whose memory pool is private, and retry.

        Only gradients are recomputed. Other code that runs out of memory next to the graphs, e.g. evaluation, fails.
        """
        restore = keep_buffers(model) if self.captured else None
        try:
            return eager(compute, images, targets)
        except torch.OutOfMemoryError:
            if not restore:
                raise
        restore()
        model.zero_grad()
        self.captured.clear()
        self.disable("out of memory")
        return self.on_side_stream(compute, images, targets)

    def on_side_stream(self, compute: Compute, images: Tensor, targets: Tensor) -> Tensor:
        """Run eagerly on a side stream, since the default stream cannot be captured."""
        if self.stream is None:
            self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                return compute(images, targets)
        finally:  # also if memory ran out: kernels launched before may still run
            torch.cuda.current_stream().wait_stream(self.stream)

    def checking_for_syncs(self, compute: Compute, images: Tensor, targets: Tensor) -> Tensor:
        """Run on the side stream, and disable capture if something synchronises with the device.

        That would abort a capture, after which torch's random numbers on the device no longer work.
        """
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.on_side_stream(compute, images, targets)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if any("called a synchronizing CUDA operation" in str(warning.message) for warning in caught):
            self.disable("the step synchronises with the GPU")
        return result

    def capture(self, shape: Hashable, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor) -> None:
        """Capture the graph for a batch shape. Graphs are replayed one at a time, so all share a memory pool."""
        pool = next((captured.graph.pool() for captured in self.captured.values()), None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a failed capture is empty
                self.captured[shape] = CapturedGraph(compute, model, images, targets, pool)
        except RuntimeError as error:
            model.zero_grad()
            self.disable(str(error).strip().partition("\n")[0])

    def disable(self, reason: str) -> None:
        """Disable capture from now on."""
        if self.enabled:
            self.log(f"CUDA graph capture failed ({reason}): training without CUDA graphs")
        self.enabled = False
