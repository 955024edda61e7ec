"""One run in several processes: which of them this one is, and what they do together.

Each process, a rank, holds the whole network and all images, and computes its share of every batch. What
they decide is decided by all of them at the same step, or by the first for all.
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
from engine.device.device import choose_device
from engine.device.seeds import random_states, restore_random_states, seed_everything
from engine.run.errors import DeviceError, RunError
from engine.run.process import LAUNCH, is_main_process, is_one_of_several

TIMEOUT = timedelta(minutes=10)  # for a rank that does not answer: the first may be trying ways to compute meanwhile

Value = TypeVar("Value")


class RankLost(RunError):
    """Another process of this run has ended or cannot be reached; the message is one line."""

    status = 1
    is_final = False  # the group may begin again


@dataclass(eq=False)
class Ranks:
    """The processes of a run as one of them sees them: its number, and how many there are.

    Everything here leaves a run in one process as it is. The methods that speak of all ranks must be called by
    all of them, in the same order.
    """

    rank: int = 0
    size: int = 1
    cpu_group: Any = None  # the group for short messages, which so need not wait behind gradients
    asked: tuple[Any, Tensor] | None = None  # what is on its way between them

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks of a tensor of the same shape on each, in its place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sums(self, *values: Tensor | float) -> Sequence[Tensor | float]:
        """The sum over all ranks of each of some numbers, in float64, in which sums of whole numbers are exact."""
        if self.size == 1:
            return values
        together = torch.tensor([float(value) for value in values], dtype=torch.float64)
        dist.all_reduce(together, group=self.cpu_group)
        return together.tolist()

    def broadcast_from_main(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first rank, on all of them: plain values, tensors. The others do not call it."""
        if self.size == 1:
            return make()
        box = [make() if self.is_main_process else None]
        dist.broadcast_object_list(box, src=0, group=self.cpu_group)
        return box[0]

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.cpu_group)
        return box

    def all_reduce_max(self, signal: int | None, due: bool) -> tuple[int | None, bool]:
        """The highest signal that any rank has got, if one has, and whether anything is due on any of them.

        Asked after each step, it answers with what all knew a step before, which has reached everybody
        meanwhile: neither the device nor another rank is waited for.
        """
        if self.size == 1:
            return signal, due
        note = torch.tensor([signal or 0, int(due)])
        before, self.asked = self.asked, (dist.all_reduce(note, dist.ReduceOp.MAX, self.cpu_group, async_op=True), note)
        if before is None:
            return None, False
        work, answer = before
        work.wait()
        number, is_due = answer.tolist()
        return number or None, bool(is_due)

    def highest_signal(self, signal: int | None) -> int | None:
        """The highest signal that any rank has got by now, if one has."""
        return max(filter(None, self.all_gather(signal)), default=None)

    def replica(self, model: nn.Module, images: Tensor) -> nn.Module:
        """`model` such that its backward pass leaves the mean of all ranks' gradients.

        DistributedDataParallel lays out its buckets anew after the first pass, and with them the order of
        sums. So a pass of no consequence with some normalised images comes first: a run that goes on then
        adds in the same order as one that was never interrupted.
        """
        restore, states = keep_buffers(model), random_states()
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for what older has not yet
            parallel = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        outputs = parallel.train()(images)
        sum(output.float().sum() for output in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
        parallel.zero_grad()
        restore()
        restore_random_states(states)
        return parallel

    def part_of_batch(self, network: nn.Module, *, last: bool) -> AbstractContextManager:
        """Within, the gradients of a `replica` stay this rank's own; the `last` part takes all of them along."""
        return nullcontext() if last or self.size == 1 else network.no_sync()

    @torch.no_grad()
    def share_buffers(self, networks: Iterable[nn.Module]) -> None:
        """Give all ranks the first one's running statistics, which are the same where batch norm is synchronised."""
        if self.size > 1:
            for network in networks:
                for buffer in network.buffers():
                    dist.broadcast(buffer, src=0)

    def seed(self, seed: int, *, deterministic: bool) -> None:
        """Let each rank draw masks of its own within the network; the first draws those of a single process."""
        if self.rank:
            seed_everything((seed + 0x9E3779B1 * self.rank) % 2**32, deterministic=deterministic)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Within, the process is one of the ranks that the launcher's environment speaks of, or else alone.

    It computes on the GPU of its number on this machine, if on any. Raises DeviceError where there are too
    few, and RankLost where the others do not come or one of them goes.
    """
    if not is_one_of_several():
        yield ALONE
        return
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    kind = choose_device(device).type
    try:
        if kind == "mps":
            raise DeviceError("trainer.device=mps: it takes part in no run of several processes, take cpu")
        if kind == "cuda":
            if here > torch.cuda.device_count():
                raise DeviceError(f"trainer.devices={here}: this machine has {torch.cuda.device_count()} GPUs")
            torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=TIMEOUT)
        yield Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=TIMEOUT))
    except RunError as error:
        error.is_said = not is_first_to_say()
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            lost = RankLost(f"another process of this run has ended, or cannot be reached: {first_line(error)}")
            # The project's own launcher says which it was, unless that was on another machine.
            lost.is_said = not is_first_here() if are_machines() else LAUNCH in os.environ or not is_main_process()
            raise lost from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_first_to_say() -> bool:
    """Whether no rank has yet said why the run ends; before they have met, one a machine says it."""
    try:
        return dist.distributed_c10d._get_default_store().add("said", 1) == 1
    except (RuntimeError, ValueError):
        return is_first_here()


def is_first_here() -> bool:
    """Whether this is the first rank on its machine."""
    return os.environ.get("LOCAL_RANK") == "0"


def are_machines() -> bool:
    """Whether some of the ranks are on another machine."""
    everywhere = os.environ.get("WORLD_SIZE", "1")
    return int(os.environ.get("LOCAL_WORLD_SIZE", everywhere)) < int(everywhere)


def first_line(error: Exception) -> str:
    """The beginning of what torch says, without the places in its source and what is typical."""
    return str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0][:150]
