"""Which GPU a job of a sweep computes on, where several jobs run beside each other on one machine. No torch here.

Each GPU has a number of places. A place is a lock of the operating system's on a file that all sweeps of a user on
this machine share; a process that dies, however that is, has given it back.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.run.console import say
from engine.run.errors import RunError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # CUDA looks at it once in a process, when it is first used

PAUSE = 0.5  # seconds between two looks for a free place


class PlaceError(RunError):
    """The locks cannot be kept; the message is one line that says why."""


def gpus() -> list[str]:
    """The GPUs by NVIDIA that this process may use, by their names in CUDA_VISIBLE_DEVICES or else by the driver's."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else []


def locks() -> Path:
    """The directory of this user's locks, on a disk of this machine alone: others have GPUs of the same names."""
    return Path(tempfile.gettempdir()) / f"cifar-gpus-{os.getuid() if hasattr(os, 'getuid') else 0}"


@contextmanager
def place(names: Sequence[str], *, jobs_per_gpu: int, directory: Path) -> Iterator[None]:
    """Within, this process sees one of the GPUs `names`, which no more than `jobs_per_gpu` jobs share.

    Waits until there is a place; every GPU is offered to a first job before any is to a second. Afterwards the
    process still sees that GPU alone, since CUDA has begun there: its next job waits for a place on it. Where there
    is no GPU nothing happens. Raises PlaceError.
    """
    if not names:
        yield
        return
    from filelock import FileLock, Timeout  # takes a tenth of a second, which a wrong command need not wait for

    def first_free() -> tuple[str, FileLock] | None:
        for number in range(jobs_per_gpu):
            for name in names:
                lock = FileLock(directory / f"{name.replace('/', '_')}-{number}.lock", blocking=False)
                try:
                    lock.acquire()
                except Timeout:
                    continue
                return name, lock
        return None

    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        while (found := first_free()) is None:
            time.sleep(PAUSE)
    except OSError as error:
        raise PlaceError(f"{directory}: no lock of a GPU can be kept there ({error.strerror})") from None
    os.environ[VISIBLE], lock = found
    try:
        say(f"on GPU {os.environ[VISIBLE]}")
        yield
    finally:
        lock.release()
