"""CUDA graphs: the kernels of a step recorded once, and then started all together.

A small network keeps a GPU busy for some microseconds with each of its kernels, less than it takes Python to start
the next: most of the time of a step is the processor's. A recorded step is started at once.
"""

import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from engine.device.buffers import keep_buffers
from engine.run.console import say

Compute = Callable[[Tensor, Tensor], Tensor]

WARM_UP = 3  # batches of a shape that are computed as usual: libraries set themselves up, compilers compile


def unheard(_: str) -> None:
    """Nothing: that a trial cannot record is no news, which the run itself will tell."""


class Recording:
    """The gradients of batches of one shape: what `compute` did, on tensors that stay where they are."""

    def __init__(self, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor, pool: object):
        self.images, self.targets, self.parameters = images.clone(), targets.clone(), list(model.parameters())
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = compute(self.images, self.targets)
        self.gradients = [parameter.grad for parameter in self.parameters]

    def replay(self, images: Tensor, targets: Tensor) -> Tensor:
        """Do it again, on this batch. The gradients lie there until the next time."""
        self.images.copy_(images)
        self.targets.copy_(targets)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.result.clone()


class CudaGraphs:
    """Computes gradients by recordings, one for each shape of batch.

    The first batches of a shape are computed as usual, and so are all where nothing can be recorded, as where memory
    does not suffice or something waits for the device; `tell` is told that once. What is recorded must not depend on
    anything in main memory that changes from step to step.
    """

    def __init__(self, *, log: Callable[[str], None] = say):
        self.log = log
        self.seen: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, Recording] = {}
        self.stream: torch.cuda.Stream | None = None
        self.can_record = True

    def __call__(self, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """What `compute` does with a batch: it gives `model`, which has no gradients, its own, and returns a tensor."""
        shape = (*images.shape, *targets.shape)
        seen = self.seen.get(shape, 0)
        if self.can_record and seen == WARM_UP and shape not in self.recordings:
            self.record(shape, compute, model, images, targets)
        if shape in self.recordings:
            return self.recordings[shape].replay(images, targets)
        as_usual = self.watched if self.can_record and seen == WARM_UP - 1 else self.aside
        result = self.or_without_recordings(as_usual, compute, model, images, targets)
        self.seen[shape] = seen + 1
        return result

    def or_without_recordings(
        self, as_usual: Callable[..., Tensor], compute: Compute, model: nn.Module, images: Tensor, targets: Tensor
    ) -> Tensor:
        """Compute as usual; where memory runs out, again without recordings, whose memory is nobody else's.

        Only gradients are computed again. What else runs out of memory beside recordings, as evaluation may, fails.
        """
        restore = keep_buffers(model) if self.recordings else None
        try:
            return as_usual(compute, images, targets)
        except torch.OutOfMemoryError:
            if not restore:
                raise
        restore()
        model.zero_grad()
        self.recordings.clear()
        self.refuse("memory does not suffice")
        return self.aside(compute, images, targets)

    def aside(self, compute: Compute, images: Tensor, targets: Tensor) -> Tensor:
        """Compute as usual, but on another stream than the default one, from which nothing can be recorded."""
        if self.stream is None:
            self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                return compute(images, targets)
        finally:  # also where memory ran out: what was begun is still at work
            torch.cuda.current_stream().wait_stream(self.stream)

    def watched(self, compute: Compute, images: Tensor, targets: Tensor) -> Tensor:
        """Compute aside, and record nothing later on if something waits for the device.

        That would break a recording off, behind which torch's random numbers on the device no longer work.
        """
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.aside(compute, images, targets)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if any("called a synchronizing CUDA operation" in str(warning.message) for warning in caught):
            self.refuse("something in them waits for the GPU")
        return result

    def record(self, shape: Hashable, compute: Compute, model: nn.Module, images: Tensor, targets: Tensor) -> None:
        """Record what is done with batches of a shape. One at a time is replayed, so that all share their memory."""
        pool = next((recording.graph.pool() for recording in self.recordings.values()), None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a failed recording is empty
                self.recordings[shape] = Recording(compute, model, images, targets, pool)
        except RuntimeError as error:
            model.zero_grad()
            self.refuse(str(error).strip().partition("\n")[0])

    def refuse(self, reason: str) -> None:
        """Record nothing from now on."""
        if self.can_record:
            self.log(f"steps cannot be recorded ({reason}): their kernels are started one by one")
        self.can_record = False
