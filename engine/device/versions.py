"""The versions of Python, the packages and this repository."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    packages = ["torch", "torchvision", "hydra-core", "omegaconf", "numpy"]
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


def git_revision() -> str | None:
    """The git revision of this source tree, with "-dirty" if modified; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
