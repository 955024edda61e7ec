"""Memory that freed tensors leave, and what is said where it runs out. No torch here, which takes seconds to import."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from engine.run.errors import RunError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

HELPS = (
    "lower trainer.batch_size (auto finds what fits), compute it in parts (trainer.micro_batches=4, the same step), "
    "take trainer.precision=bf16, or model.checkpointing=true where the network has it; on a GPU also "
    "trainer.cuda_graphs=false"
)


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones, where the C library is glibc; else nothing.

    By itself glibc gives tensors of more than 32 MB, and the top of its heap, back to the system, which then hands
    out the same pages again in the next step and has to clear each of them first: in networks with large
    activations that takes up to half of the time. This holds for the whole process, and cannot be undone. What lies
    free at this moment, in pieces of other sizes than those to come, is given back.
    """
    if platform.libc_ver()[0] == "glibc":
        glibc = ctypes.CDLL(None)
        glibc.mallopt(M_MMAP_MAX, 0)
        glibc.mallopt(M_TRIM_THRESHOLD, -1)
        glibc.malloc_trim(0)


class OutOfMemory(RunError):
    """There is not enough memory; the message is one line that says for what, and what helps."""

    status = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, that of a GPU, or that of torch on a processor."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_explained(what: str, *, helps: str = HELPS) -> Iterator[None]:
    """Within, OutOfMemory is raised in place of what torch says; `what` needed the memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory with {what}: {helps}") from error
