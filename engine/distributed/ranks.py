"""Data parallel training: this process's rank, and collective operations.

Each rank holds the whole model and all images, and computes its share of every batch. Decisions are made by all ranks
at the same step, or by rank 0 and broadcast.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from engine.device.buffers import keep_buffers
from engine.device.device import device_type
from engine.device.seeds import random_states, restore_random_states, seed_everything
from engine.run.errors import DeviceError, RunError
from engine.run.process import LAUNCH, is_main_process, is_one_of_several

TIMEOUT = timedelta(minutes=10)  # of collectives: long enough for rank 0's precision benchmark

Value = TypeVar("Value")


class RankLost(RunError):
    """Another process of this run has ended or cannot be reached; the message is one line."""

    status = 1
    is_final = False  # torchrun may restart the group


@dataclass(eq=False)
class Ranks:
    """This process's rank, the world size, and collective operations.

    With one process every method is a no-op. Collective methods must be called by all ranks in the same order.
    """

    rank: int = 0
    size: int = 1
    cpu_group: Any = None  # a gloo group for short messages, which need not wait for gradients
    pending: tuple[Any, Tensor] | None = None  # the all-reduce in flight: work handle and tensor

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """All-reduce a tensor of the same shape on all ranks in place, by sum."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sums(self, *values: Tensor | float) -> Sequence[Tensor | float]:
        """The sum of each value over all ranks, in float64, in which sums of integers are exact."""
        if self.size == 1:
            return values
        together = torch.tensor([float(value) for value in values], dtype=torch.float64)
        dist.all_reduce(together, group=self.cpu_group)
        return together.tolist()

    def broadcast_from_main(self, make: Callable[[], Value]) -> Value:
        """Call `make` on rank 0 only and broadcast its result, plain values or tensors, to all ranks."""
        if self.size == 1:
            return make()
        box = [make() if self.is_main_process else None]
        dist.broadcast_object_list(box, src=0, group=self.cpu_group)
        return box[0]

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.cpu_group)
        return box

    def all_reduce_max(self, signal: int | None, due: bool) -> tuple[int | None, bool]:
        """The highest signal that any rank has received, or None, and whether `due` is true on any rank.

        Called after each step, it returns the result of the previous step's asynchronous all-reduce, so that it
        waits neither for the device nor for another rank.
        """
        if self.size == 1:
            return signal, due
        note = torch.tensor([signal or 0, int(due)])
        before, self.pending = (
            self.pending,
            (dist.all_reduce(note, dist.ReduceOp.MAX, self.cpu_group, async_op=True), note),
        )
        if before is None:
            return None, False
        work, answer = before
        work.wait()
        number, is_due = answer.tolist()
        return number or None, bool(is_due)

    def highest_signal(self, signal: int | None) -> int | None:
        """The highest signal that any rank has received so far, or None."""
        return max(filter(None, self.all_gather(signal)), default=None)

    def replica(self, model: nn.Module, images: Tensor) -> nn.Module:
        """`model` wrapped in DistributedDataParallel, which averages the gradients of all ranks.

        DistributedDataParallel rebuilds its buckets after the first pass, which changes the order of sums. A dummy
        pass with some normalised images comes first, so that a resumed run sums in the same order as an
        uninterrupted one.
        """
        restore, states = keep_buffers(model), random_states()
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch renamed an argument
            parallel = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        outputs = parallel.train()(images)
        sum(output.float().sum() for output in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
        parallel.zero_grad()
        restore()
        restore_random_states(states)
        return parallel

    def part_of_batch(self, network: nn.Module, *, last: bool) -> AbstractContextManager:
        """A context without gradient synchronisation of a `replica`, except for the `last` micro-batch."""
        return nullcontext() if last or self.size == 1 else network.no_sync()

    @torch.no_grad()
    def share_buffers(self, networks: Iterable[nn.Module]) -> None:
        """Broadcast rank 0's running statistics to all ranks; with SyncBatchNorm they are equal already."""
        if self.size > 1:
            for network in networks:
                for buffer in network.buffers():
                    dist.broadcast(buffer, src=0)

    def seed(self, seed: int, *, deterministic: bool) -> None:
        """Seed each rank differently, for its own dropout masks; rank 0 keeps the seed of a single process."""
        if self.rank:
            seed_everything((seed + 0x9E3779B1 * self.rank) % 2**32, deterministic=deterministic)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the process group that the launcher's environment describes, if any, for the duration of the context.

    On CUDA the process uses the GPU of its local rank. Raises DeviceError if there are too few GPUs, and RankLost if
    another rank does not connect or exits.
    """
    if not is_one_of_several():
        yield ALONE
        return
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    kind, store = device_type(device), None
    try:
        if kind == "mps":
            raise DeviceError("trainer.device=mps: does not support several processes, use cpu")
        if kind == "cuda":
            if here > torch.cuda.device_count():
                raise DeviceError(f"trainer.devices={here}: this node has {torch.cuda.device_count()} GPUs")
            torch.cuda.set_device(local)
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        backends = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backends, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        yield Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=TIMEOUT))
    except RunError as error:
        error.is_reported = not is_first_to_report(store)
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            lost = RankLost(f"another process of this run has ended, or cannot be reached: {first_line(error)}")
            # The project's own launcher reports which one died, except on another node.
            lost.is_reported = not is_local_main() if is_multi_node() else LAUNCH in os.environ or not is_main_process()
            raise lost from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_first_to_report(store: dist.Store | None) -> bool:
    """Whether no rank has reported the error yet; without a connection local rank 0 reports it."""
    try:
        return store.add("reported", 1) == 1 if store else is_local_main()
    except RuntimeError:
        return is_local_main()


def is_local_main() -> bool:
    """Whether this is local rank 0."""
    return os.environ.get("LOCAL_RANK") == "0"


def is_multi_node() -> bool:
    """Whether the run uses more than one node."""
    everywhere = os.environ.get("WORLD_SIZE", "1")
    return int(os.environ.get("LOCAL_WORLD_SIZE", everywhere)) < int(everywhere)


def first_line(error: Exception) -> str:
    """The first sentence of a torch error, without source locations."""
    return str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0][:150]
