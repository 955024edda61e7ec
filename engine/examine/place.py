"""Where what an examination finds is written."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.rundir import RunDirectory


def common_directory(files: Sequence[Path]) -> RunDirectory:
    """The run's directory of a checkpoint, or what has all of several."""
    directories = [file.parent.parent if file.parent.name == "checkpoints" else file.parent for file in files]
    common = Path(os.path.commonpath([directory.resolve() for directory in directories]))
    return RunDirectory(directories[0] if common == directories[0].resolve() else common)
