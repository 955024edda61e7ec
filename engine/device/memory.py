"""Reuse of freed memory, and out-of-memory errors. No torch here, which takes seconds to import."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from engine.run.errors import RunError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

HELPS = (
    "lower trainer.batch_size (auto finds what fits), set trainer.gradient_accumulation=4 (the same step), "
    "use trainer.precision=bf16, or model.gradient_checkpointing=true if the model supports it; on a GPU also "
    "trainer.cuda_graphs=false"
)


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors for reuse; with another C library, do nothing.

    By default glibc returns blocks of more than 32 MB, and the top of its heap, to the system, which has to zero the
    same pages again in the next step: with large activations that takes up to half of the time. The setting holds for
    the whole process and cannot be undone. Memory that is free now, in other block sizes, is returned first.
    """
    if platform.libc_ver()[0] == "glibc":
        glibc = ctypes.CDLL(None)
        glibc.mallopt(M_MMAP_MAX, 0)
        glibc.mallopt(M_TRIM_THRESHOLD, -1)
        glibc.malloc_trim(0)


class OutOfMemory(RunError):
    """Out of memory; the message is one line that says what needed it and what helps."""

    status = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory: Python's, a GPU's, or torch's on a CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_explained(what: str, *, helps: str = HELPS) -> Iterator[None]:
    """Convert out-of-memory errors within this context to OutOfMemory; `what` needed the memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory with {what}: {helps}") from error
