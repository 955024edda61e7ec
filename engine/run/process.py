"""What the environment says of this process: whether it is one of several of a run, and which. No torch here.

torchrun and `trainer.devices` set RANK, WORLD_SIZE and TORCHELASTIC_RESTART_COUNT. The project's own launcher
also names a directory in which a process notes that the run is over, so that nobody begins again.
"""

import os
from pathlib import Path

LAUNCH = "CIFAR_LAUNCH"


def is_one_of_several() -> bool:
    """Whether other processes take part in the run that this one computes."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this process writes and speaks: the first of several, or the only one."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def has_begun_again() -> bool:
    """Whether the processes of this run were started before, and one of them died."""
    return is_one_of_several() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def note_over(status: int) -> None:
    """Tell the launcher that the run has ended for a reason that another try would not mend."""
    if is_one_of_several() and LAUNCH in os.environ and over() is None:
        (Path(os.environ[LAUNCH]) / "over").write_text(str(status))


def over() -> int | None:
    """The exit status that was noted; None while the run goes on."""
    try:
        return int((Path(os.environ[LAUNCH]) / "over").read_text())
    except (KeyError, OSError, ValueError):
        return None
