"""Assign GPUs to the parallel jobs of a sweep on one machine. No torch here.

Each GPU has a number of slots. A slot is a file lock that all sweeps of a user on this machine share; the operating
system releases it when a process dies.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.run.console import logger
from engine.run.errors import RunError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # CUDA reads it once per process, on first use

POLL_INTERVAL = 0.5  # seconds


class GpuSlotError(RunError):
    """The lock files cannot be created; the message is one line that says why."""


def gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as in CUDA_VISIBLE_DEVICES, or else by the driver's indices."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else []


def locks() -> Path:
    """The directory of this user's locks, on a local disk: other machines have GPUs of the same names."""
    return Path(tempfile.gettempdir()) / f"cifar-gpus-{os.getuid() if hasattr(os, 'getuid') else 0}"


@contextmanager
def gpu_slot(names: Sequence[str], *, jobs_per_gpu: int, directory: Path) -> Iterator[None]:
    """Restrict this process to one of the GPUs `names`, shared by at most `jobs_per_gpu` jobs.

    Waits for a free slot; every GPU gets a first job before any gets a second. Afterwards the process still sees only
    that GPU, since CUDA is initialised: its next job waits for a slot on it. Does nothing without GPUs. Raises
    GpuSlotError.
    """
    if not names:
        yield
        return
    from filelock import FileLock, Timeout  # takes 0.1 s, which an invalid command need not wait for

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
            time.sleep(POLL_INTERVAL)
    except OSError as error:
        raise GpuSlotError(f"{directory}: no GPU lock can be created there ({error.strerror})") from None
    os.environ[VISIBLE], lock = found
    try:
        logger.info(f"on GPU {os.environ[VISIBLE]}")
        yield
    finally:
        lock.release()
