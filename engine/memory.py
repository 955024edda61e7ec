"""What is said where memory runs out. No torch here, which takes seconds to import."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import RunError

HELPS = (
    "lower trainer.batch_size (auto finds what fits), compute it in parts (trainer.micro_batches=4, the same step), "
    "take trainer.precision=bf16, or model.checkpointing=true where the network has it"
)


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
