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
    try:
        if git(root, "rev-parse", "--show-prefix"):  # the path from the top of the repository
            return None
        return git(root, "describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(directory: Path, *arguments: str) -> str:
    """What git prints in a directory."""
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()
