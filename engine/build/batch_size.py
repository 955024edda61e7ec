"""The largest batch that fits into memory: trainer.batch_size=auto."""

import psutil
import torch
from torch import Tensor

from engine.device.device import Backend
from engine.device.memory import is_out_of_memory
from engine.training.state import TrainState
from engine.training.step import TrainStep

SHARE = 0.8  # of the free memory, which other processes may need as well

BACKWARD_FACTOR = 2.0  # peak memory / saved activations: adds their gradients and operators' workspaces

FEWEST_STEPS = 32  # per epoch: larger batches often fit, but do not train well

SMALLEST = 16


def largest_batch(
    state: TrainState, train_step: TrainStep, backend: Backend, *, image_shape: torch.Size, count: int
) -> int:
    """The largest power of two that fits into memory and gives at least 32 steps per epoch of `count` images.

    Memory is estimated from the tensors saved for backward of a small batch, and on a GPU verified with a step.
    Gradients and running statistics of `state` are overwritten.
    """
    per_image = kept_per_image(state, train_step, backend, image_shape=image_shape)
    images_in_memory = SHARE * free_bytes(backend.device) / (BACKWARD_FACTOR * per_image)
    size = SMALLEST
    while 2 * size <= min(images_in_memory, count / FEWEST_STEPS):
        size *= 2
    while backend.device.type != "cpu" and size > SMALLEST and not fits(state, train_step, backend, image_shape, size):
        size //= 2
    return size


def images(backend: Backend, image_shape: torch.Size, size: int) -> Tensor:
    """Random images [size, C, H, W]."""
    return torch.randn(size, *image_shape, device=backend.device).contiguous(memory_format=backend.memory_format)


def kept_per_image(state: TrainState, train_step: TrainStep, backend: Backend, *, image_shape: torch.Size) -> float:
    """Bytes saved for backward per image [C, H, W], from two small batches."""
    few, more = (kept_bytes(state, train_step, backend, images(backend, image_shape, size)) for size in (2, 4))
    return (more - few) / 2


def kept_bytes(state: TrainState, train_step: TrainStep, backend: Backend, batch: Tensor) -> int:
    """Bytes saved for backward by a step on a batch, including the weights."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    state.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        train_step.add_gradients(state, batch, torch.zeros(len(batch), dtype=torch.int64, device=backend.device))
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def fits(state: TrainState, train_step: TrainStep, backend: Backend, image_shape: torch.Size, size: int) -> bool:
    """Whether a step with `size` images fits into memory."""
    try:
        kept_bytes(state, train_step, backend, images(backend, image_shape, size))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        state.optimizer.zero_grad()
    return True
