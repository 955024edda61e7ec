"""Batches for training and evaluation, from images stored as one tensor on the device."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data.augmentation import Operation
from data.dataset import Images
from data.mixing import Mixing


class Normalize:
    """Convert uint8 images to float32, subtract the mean of each channel and divide by its standard deviation.

    `mean` and `std` are on the scale from 0 to 1. [B, C, H, W] -> [B, C, H, W] in `memory_format`.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, memory_format: torch.memory_format
    ):
        self.mean = 255 * torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = 255 * torch.tensor(std, device=device).view(1, -1, 1, 1)
        self.memory_format = memory_format

    def __call__(self, images: Tensor) -> Tensor:
        return self.values(images).contiguous(memory_format=self.memory_format)

    def values(self, images: Tensor) -> Tensor:
        """The same in contiguous (NCHW) memory format, three times as fast to augment as channels_last."""
        return images.float().sub_(self.mean).div_(self.std)

    def undo(self, images: Tensor) -> Tensor:
        """Normalised images as float32 between 0 and 1."""
        return ((images * self.std + self.mean) / 255).clamp(0, 1)


class TrainLoader:
    """All training images once per epoch, shuffled, augmented, normalised and mixed.

    `operations` run in the given order. Shuffling, augmentation and mixing depend only on (seed, epoch): the
    step is the only state to save, and `epoch(n, first_step)` yields the same batches as an uninterrupted
    epoch from that step. The last batch has the remaining images; a single one is appended to the batch
    before it, since batch normalisation needs more than one value.

    With `ranks` processes, process `rank` gets its `share` of each batch: together, the same images as in a
    single process.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        operations: Sequence[Operation],
        mixings: Sequence[Mixing] = (),
        normalize: Normalize,
        num_classes: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.images = images
        self.batch_size = batch_size
        self.rank, self.ranks = rank, ranks
        self.operations = operations
        self.mixings = mixings
        self.normalize = normalize
        self.num_classes = num_classes
        self.seed = seed

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 1 or whole == 0)

    def images_in(self, step: int) -> int:
        """Number of images in the batch of a step of the run, over all ranks."""
        step %= len(self)
        return len(self.images) - step * self.batch_size if step == len(self) - 1 else self.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 [B, C, H, W], targets) of one epoch, starting at `first_step`.

        Targets are labels int64 [B] or, with mixings, probabilities float32 [B, K].
        """
        count, device = len(self.images), self.images.labels.device
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        order = torch.randperm(count, generator=generator).to(device)
        labels = self.images.labels[order]
        params = [self.params(operation, epoch, generator, order) for operation in self.operations]
        mixed, mix = self.mixtures(epoch)
        for step in range(first_step, len(self)):
            start, size = step * self.batch_size, self.images_in(step)
            mine = share(size, self.rank, self.ranks)
            # Partners may be on other ranks, so that each rank computes the whole of a mixed batch.
            some = slice(0, size) if mixed[step] else mine
            chosen = slice(start + some.start, start + some.stop)
            images = self.augment(self.images.images.index_select(0, order[chosen]), [each[chosen] for each in params])
            images, targets = mix(step, images, labels[chosen])
            yield (images[mine], targets[mine]) if mixed[step] else (images, targets)

    def params(self, operation: Operation, epoch: int, generator: torch.Generator, order: Tensor) -> Tensor:
        """The parameters of an operation for each image of an epoch, in `order`: [N, ...]."""
        uniform = self.numbers(operation, epoch, generator).to(order.device)
        return operation.make_params(uniform[order], self.images.images.shape[1:])

    def numbers(self, operation: Operation, epoch: int, generator: torch.Generator) -> Tensor:
        """The random numbers of an operation for all images in an epoch, float32 [N, draws]."""
        if not operation.alternating:
            return torch.rand(len(self.images), operation.draws, generator=generator)
        always = torch.Generator().manual_seed(mixed_seed(self.seed, 0, 2))
        uniform = torch.rand(len(self.images), operation.draws, generator=always)
        return 1 - uniform if epoch % 2 else uniform

    def augment(self, images: Tensor, params: Sequence[Tensor]) -> Tensor:
        """Apply all operations with their params to images uint8 [B, C, H, W], and normalise: float32 [B, C, H, W]."""
        # A rank's share may be empty, which operations do not support.
        steps = list(zip(self.operations, params, strict=True)) if len(images) else []
        for operation, given in steps:
            if operation.phase != "normalised":
                images = operation.transform(images, given)
        images = self.normalize.values(images)
        for operation, given in steps:
            if operation.phase == "normalised":
                images = operation.transform(images, given)
        return images.contiguous(memory_format=self.normalize.memory_format)

    def mixtures(self, epoch: int) -> tuple[np.ndarray, Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]]:
        """Which batches of an epoch are mixed, bool [steps], and the function that mixes a batch.

        It maps (step, images, labels) to (images, targets), with random numbers drawn here.
        """
        if not self.mixings:
            return np.zeros(len(self), bool), lambda step, images, labels: (images, labels)
        count, device = len(self.images), self.images.labels.device
        rng = np.random.default_rng([self.seed, epoch, 1])
        # Kept in main memory, so that choosing a mixing does not synchronise with the device.
        choices = rng.integers(len(self.mixings), size=len(self))
        mixed = rng.random(len(self)) < [self.mixings[choice].probability for choice in choices]
        ranks = torch.from_numpy(rng.random(count, np.float32)).to(device)
        numbers = [torch.from_numpy(mixing.draw(count, rng)).to(device, torch.float32) for mixing in self.mixings]

        def mix(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            # F.one_hot checks the range of the labels first, except on a GPU.
            targets = torch.zeros(len(labels), self.num_classes, device=device).scatter_(1, labels[:, None], 1.0)
            if not mixed[step]:
                return images, targets
            mixing, start = self.mixings[choices[step]], step * self.batch_size
            stop = start + (len(images) if mixing.per_image else 1)
            partners = ranks[start : start + len(images)].argsort()
            return mixing(images, targets, partners, numbers[choices[step]][start:stop])

        return mixed, mix


class EvalLoader:
    """All images once, in order, normalised."""

    def __init__(self, images: Images, *, batch_size: int, normalize: Normalize):
        self.images = images
        self.batch_size = batch_size
        self.normalize = normalize

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 [B, C, H, W], labels int64 [B])."""
        for start in range(0, len(self.images), self.batch_size):
            stop = start + self.batch_size
            yield self.normalize(self.images.images[start:stop]), self.images.labels[start:stop]


def share(count: int, rank: int, ranks: int) -> slice:
    """The slice of `count` images that one of several processes computes: nearly equal shares, or an empty one.

    No share has a single image if there are two or more: batch normalisation needs more than one value.
    """
    parts = max(min(ranks, count // 2), 1)
    if rank >= parts:
        return slice(count, count)
    least, more = divmod(count, parts)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def mixed_seed(*parts: int) -> int:
    """A 64-bit seed hashed from several numbers, so that neighbouring seeds and epochs are independent."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
