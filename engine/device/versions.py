"""The versions of what computes a run: Python, the packages, this repository's revision."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    packages = ["torch", "torchvision", "hydra-core", "omegaconf", "numpy"]
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


def git_revision() -> str | None:
    """The revision of this source tree, marked "-dirty" if it was changed since; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
