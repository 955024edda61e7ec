"""This process's rank and restart count, from the environment variables of torchrun. No torch here.

torchrun and `trainer.devices` set RANK, WORLD_SIZE and TORCHELASTIC_RESTART_COUNT. The project's own launcher
also names a directory in which a process records the run's exit status, so that no rank restarts.
"""

import os
from pathlib import Path

LAUNCH = "CIFAR_LAUNCH"


def is_one_of_several() -> bool:
    """Whether this run uses more than one process."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process; it writes files and prints."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def is_restarted() -> bool:
    """Whether torchrun has restarted the processes of this run after a failure."""
    return is_one_of_several() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def record_exit_status(status: int) -> None:
    """Record the exit status of a run that a restart would not help."""
    if is_one_of_several() and LAUNCH in os.environ and recorded_exit_status() is None:
        (Path(os.environ[LAUNCH]) / "exit_status").write_text(str(status))


def recorded_exit_status() -> int | None:
    """The recorded exit status of the run; None while it is running."""
    try:
        return int((Path(os.environ[LAUNCH]) / "exit_status").read_text())
    except (KeyError, OSError, ValueError):
        return None
