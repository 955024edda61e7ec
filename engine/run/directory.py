"""The run directory and the paths of its files. No torch here, so that a wrong path fails early."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.run.console import logger
from engine.run.errors import RunError

WIDTH = 120  # of a line in a JSON file, unless it is a list


class DirectoryError(RunError):
    """The run directory cannot be used; the message is one line that says why."""


class InUse(DirectoryError):
    """Another process uses the directory."""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically. Raises OSError."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file atomically. Raises OSError."""
    write_text(path, format_json(content) + "\n")


def format_json(content: Any, margin: str = "") -> str:
    """Indented JSON, with a list of plain values (a matrix row) or a short object of them on one line.

    Object keys must be strings. Lines after the first start with `margin`.
    """
    whole, is_object = json.dumps(content, allow_nan=True), isinstance(content, dict)
    if not content or not isinstance(content, (dict, list, tuple)):
        return whole
    is_flat = not any(isinstance(one, (dict, list, tuple)) for one in (content.values() if is_object else content))
    if is_flat and not (is_object and len(margin + whole) > WIDTH):
        return whole
    inner = margin + "  "
    if is_object:
        members = [f"{json.dumps(key)}: {format_json(one, inner)}" for key, one in content.items()]
    else:
        members = [format_json(one, inner) for one in content]
    first, last = "{}" if is_object else "[]"
    between = f",\n{inner}"
    return f"{first}\n{inner}{between.join(members)}\n{margin}{last}"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. As a string: relative to the working directory, if inside it.

    `words` are the command-line overrides, which are saved there for a later resume; `composed` is the content of the
    other files that Hydra saves with them, by file name.
    """

    path: Path
    words: Sequence[str] = ()
    composed: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative

    @property
    def root(self) -> str:
        """The top-level folder of this run and similar ones: TensorBoard's --logdir."""
        relative = Path(str(self))
        return str(self) if relative.is_absolute() else next(iter(relative.parts), ".")

    @property
    def resume_command(self) -> str:
        """The shell command that resumes this run."""
        if re.fullmatch(r"[\w./+-]+", str(self), re.ASCII):
            return f"python train.py resume={self}"
        quoted = str(self).replace("'", r"\'")
        argument = f"resume='{quoted}'"
        return f"python train.py {shlex.quote(argument)}"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Lock this directory for the duration of the context; an empty one is removed on exit.

        The lock is the operating system's, which releases it if the process is killed. Raises DirectoryError.
        """
        from filelock import FileLock, Timeout  # 0.1 s, which a wrong command need not wait for

        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise InUse(f"{self} is in use by another process") from None
        except OSError as error:
            raise DirectoryError(f"{self}: cannot be written to ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()
            if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= {".hydra", ".lock"}:
                shutil.rmtree(self.path)

    def save_overrides(self) -> None:
        """Save the command-line overrides for a later resume, unless they are saved already.

        Hydra saves them when a run starts, but not when it is resumed, possibly with other settings, nor after the
        directory was deleted. Raises OSError.
        """
        kept = [
            word for word in self.words if not word.lstrip("+").startswith(("resume=", "resume_force=", "init_only="))
        ]
        text = yaml.safe_dump(kept)
        if not (self.overrides.exists() and self.overrides.read_text() == text):
            self.overrides.parent.mkdir(parents=True, exist_ok=True)
            for name, content in {**self.composed, self.overrides.name: text}.items():
                write_text(self.overrides.with_name(name), content)

    def recreate(self) -> None:
        """Recreate the directory if it was deleted. Raises OSError."""
        if not self.path.exists():
            logger.info(f"{self} was deleted: recreating it")
        if not self.overrides.exists():
            self.save_overrides()

    @property
    def overrides(self) -> Path:
        """The command-line overrides, as Hydra saves them."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest, in case that is damaged."""
        return self.path / "checkpoints" / "previous.pt"

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint file that exists, intact or not."""
        return next((file for file in (self.last, self.previous) if file.is_file()), None)

    @property
    def status(self) -> str | None:
        """The status in result.json; None if there is none."""
        try:
            content = json.loads(self.result.read_text())
        except (OSError, ValueError):
            return None
        return content.get("status") if isinstance(content, dict) else None

    @property
    def best(self) -> Path:
        """The checkpoint with the highest validation accuracy."""
        return self.path / "checkpoints" / "best.pt"

    @property
    def metrics(self) -> Path:
        """The metrics, one line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """The final result, or the status of an unfinished run."""
        return self.path / "result.json"

    @property
    def range_test(self) -> Path:
        """The plot of `lr_find=true`."""
        return self.path / "lr_find.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"


def sweep_override(directory: Path) -> str:
    """The override that selects the sweep in a directory."""
    named = directory.parent == Path("multirun")
    return f"sweep={directory.name}" if named else f"hydra.sweep.dir={directory}"
