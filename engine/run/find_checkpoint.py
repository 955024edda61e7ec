"""Find checkpoint files from a command-line path: a file, a run directory or a glob pattern. No torch here."""

import glob
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from engine.run.directory import RunDirectory
from engine.run.errors import CommandError


def common_directory(files: Sequence[Path]) -> RunDirectory:
    """The run directory of a checkpoint; for several, their common parent directory."""
    directories = [file.parent.parent if file.parent.name == "checkpoints" else file.parent for file in files]
    common = Path(os.path.commonpath([directory.resolve() for directory in directories]))
    return RunDirectory(directories[0] if common == directories[0].resolve() else common)


def find_checkpoints(given: str | Sequence[str]) -> dict[str, Path]:
    """The checkpoint files that `checkpoint=` selects, by name: the last part of the path, or what differs.

    A glob pattern selects its matches that have a checkpoint. Raises CommandError for a missing or repeated one.
    """
    given = [given] if isinstance(given, str) else list(given)
    if not given:
        raise CommandError("checkpoint=[]: give at least one")
    paths = [
        path
        for one in given
        for path in [path for path in matches(one) if zipfile.is_zipfile(file_or_checkpoint(path))] or [one]
    ]
    found = [find_checkpoint(path) for path in paths]
    if again := [path for path, file in zip(paths, found, strict=True) if found.count(file) > 1]:
        raise CommandError(f"checkpoint={','.join(paths)}: {again[0]} is given twice")
    absolute = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    common = os.path.commonpath(absolute) if len(absolute) > 1 else os.path.dirname(absolute[0])
    return {os.path.relpath(path, common): file for path, file in zip(absolute, found, strict=True)}


def matches(pattern: str) -> list[str]:
    """The sorted matches of a glob pattern; empty if the path itself exists."""
    whole = os.path.expanduser(pattern)
    return [] if os.path.exists(whole) else sorted(glob.glob(whole))


def find_checkpoint(path: str) -> Path:
    """The checkpoint that `checkpoint=path` selects: the file itself, or best.pt, else last.pt, of a run directory.

    Raises CommandError if there is none.
    """
    file = file_or_checkpoint(path)
    if not file.is_file():
        below = [str(run) for depth in ("*", "*/*") for run in sorted(Path(path).glob(f"{depth}/checkpoints"))]
        first = ", ".join(run.removesuffix("/checkpoints") for run in below[:3])
        runs = f"; runs in it: {first}{', ...' * (len(below) > 3)}" if below else ""
        raise CommandError(f"checkpoint={path}: no checkpoint found ({file} does not exist){runs}")
    require_checkpoint(file)
    return file


def find_weights(path: str) -> Path:
    """The weights file that `init_from=path` selects, likewise; any format. Raises CommandError."""
    file = file_or_checkpoint(path)
    if not file.is_file():
        raise CommandError(f"init_from={path}: no weights found ({file} does not exist)")
    return file


def file_or_checkpoint(path: str) -> Path:
    """The file itself, or best.pt, else last.pt, of a run directory."""
    file = Path(os.path.expanduser(path))
    if not file.is_dir():
        return file
    run = RunDirectory(file)
    return run.best if run.best.is_file() else run.last


def require_checkpoint(file: Path) -> None:
    """Raise CommandError for a file that cannot be a checkpoint: torch.save writes zip archives."""
    if not zipfile.is_zipfile(file):
        bare = "; train.py init_from=... init_only=true makes one from weights" * (file.suffix == ".safetensors")
        raise CommandError(f"{file} is not a checkpoint{bare}")


def one_or_more(given: str | Sequence[str]) -> list[str]:
    """The value of a key that takes one string or a list, as a list without duplicates."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))
