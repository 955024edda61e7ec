"""Checkpoints on the disk by what was typed: a file, a run's directory, a pattern. No torch here."""

import glob
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from engine.run.directory import RunDirectory
from engine.run.errors import CommandError


def common_directory(files: Sequence[Path]) -> RunDirectory:
    """The run's directory of a checkpoint, or what has all of several."""
    directories = [file.parent.parent if file.parent.name == "checkpoints" else file.parent for file in files]
    common = Path(os.path.commonpath([directory.resolve() for directory in directories]))
    return RunDirectory(directories[0] if common == directories[0].resolve() else common)


def find_checkpoints(given: str | Sequence[str]) -> dict[str, Path]:
    """The files that `checkpoint=` means, by a name for each: of one its last part, of several what distinguishes them.

    A pattern means what it matches and has a checkpoint. Raises CommandError where one is missing or there twice.
    """
    given = [given] if isinstance(given, str) else list(given)
    if not given:
        raise CommandError("checkpoint=[]: at least one is wanted")
    paths = [
        path
        for one in given
        for path in [path for path in matches(one) if zipfile.is_zipfile(file_or_checkpoint(path))] or [one]
    ]
    found = [find_checkpoint(path) for path in paths]
    if again := [path for path, file in zip(paths, found, strict=True) if found.count(file) > 1]:
        raise CommandError(f"checkpoint={','.join(paths)}: {again[0]} is there twice")
    absolute = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    common = os.path.commonpath(absolute) if len(absolute) > 1 else os.path.dirname(absolute[0])
    return {os.path.relpath(path, common): file for path, file in zip(absolute, found, strict=True)}


def matches(pattern: str) -> list[str]:
    """What a path with the signs * and ? matches as in a shell, in order; nothing for one that is there as it is."""
    whole = os.path.expanduser(pattern)
    return [] if os.path.exists(whole) else sorted(glob.glob(whole))


def find_checkpoint(path: str) -> Path:
    """The file that `checkpoint=path` means: the file itself, or the best, else the last, of a run's directory.

    Raises CommandError where there is none.
    """
    file = file_or_checkpoint(path)
    if not file.is_file():
        below = [str(run) for depth in ("*", "*/*") for run in sorted(Path(path).glob(f"{depth}/checkpoints"))]
        first = ", ".join(run.removesuffix("/checkpoints") for run in below[:3])
        runs = f"; runs below it: {first}{', ...' * (len(below) > 3)}" if below else ""
        raise CommandError(f"checkpoint={path}: there is no checkpoint ({file} does not exist){runs}")
    require_checkpoint(file)
    return file


def find_weights(path: str) -> Path:
    """The file that `init_from=path` means, likewise; it may also be another program's. Raises CommandError."""
    file = file_or_checkpoint(path)
    if not file.is_file():
        raise CommandError(f"init_from={path}: there are no weights ({file} does not exist)")
    return file


def file_or_checkpoint(path: str) -> Path:
    """The file itself, or the best checkpoint, else the last, of a run's directory."""
    file = Path(os.path.expanduser(path))
    if not file.is_dir():
        return file
    run = RunDirectory(file)
    return run.best if run.best.is_file() else run.last


def require_checkpoint(file: Path) -> None:
    """Raise CommandError for a file that cannot be a checkpoint: torch.save writes zip archives."""
    if not zipfile.is_zipfile(file):
        bare = "; of bare weights, train.py init_from=... init_only=true makes one" * (file.suffix == ".safetensors")
        raise CommandError(f"{file} is not a checkpoint{bare}")


def one_or_more(given: str | Sequence[str]) -> list[str]:
    """What stands in a key that takes one or a list, as a list without repetitions."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))
