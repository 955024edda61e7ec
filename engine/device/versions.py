"""The versions of Python, the packages and this repository."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    packages = ["torch", "torchvision", "hydra-core", "omegaconf", "numpy"]
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


ROOT = Path(__file__).resolve().parents[2]


def git_revision(root: Path = ROOT) -> str | None:
    """The git revision of this project, with "-dirty" if modified.

    None outside a git checkout, and where the enclosing repository is another project's.
    """
    if not (root / ".git").exists():  # a directory, or in a work tree a file
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
