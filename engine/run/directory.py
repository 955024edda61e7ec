"""Where the files of a run lie in its directory. No torch here, so that a wrong path is said at once."""

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

from engine.run.console import say
from engine.run.errors import RunError

WIDTH = 120  # of a line in a JSON file, unless it is a list


class DirectoryError(RunError):
    """The directory of a run cannot be worked in; the message is one line that says why."""


class InUse(DirectoryError):
    """Another process works in the directory."""


def write_text(path: Path, text: str) -> None:
    """Write a file that is never half written. Raises OSError."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is never half written, laid out for people as well. Raises OSError."""
    write_text(path, laid_out(content) + "\n")


def laid_out(content: Any, margin: str = "") -> str:
    """JSON in lines: a list of plain values, as the row of a matrix, has one, and so has a short object of them.

    The keys of objects are text. Lines after the first begin with `margin`.
    """
    whole, is_object = json.dumps(content, allow_nan=True), isinstance(content, dict)
    if not content or not isinstance(content, (dict, list, tuple)):
        return whole
    is_flat = not any(isinstance(one, (dict, list, tuple)) for one in (content.values() if is_object else content))
    if is_flat and not (is_object and len(margin + whole) > WIDTH):
        return whole
    inner = margin + "  "
    if is_object:
        members = [f"{json.dumps(key)}: {laid_out(one, inner)}" for key, one in content.items()]
    else:
        members = [laid_out(one, inner) for one in content]
    first, last = "{}" if is_object else "[]"
    between = f",\n{inner}"
    return f"{first}\n{inner}{between.join(members)}\n{margin}{last}"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. As text: relative to where the user stands, if it is below.

    `words` are what the command line says, which the directory keeps for a run that goes on, and `composed` what Hydra
    notes beside them of what they come to: the content of files by name.
    """

    path: Path
    words: Sequence[str] = ()
    composed: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative

    @property
    def root(self) -> str:
        """The folder that holds this run and its like: where TensorBoard should look."""
        relative = Path(str(self))
        return str(self) if relative.is_absolute() else next(iter(relative.parts), ".")

    @property
    def resume_command(self) -> str:
        """The command that continues this run, as it can be typed."""
        if re.fullmatch(r"[\w./+-]+", str(self), re.ASCII):
            return f"python train.py resume={self}"
        quoted = str(self).replace("'", r"\'")
        argument = f"resume='{quoted}'"
        return f"python train.py {shlex.quote(argument)}"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, no other process may work in this directory; behind it, one in which nothing happened is gone.

        The lock is the system's, which a process that is killed gives back. Raises DirectoryError.
        """
        from filelock import FileLock, Timeout  # takes a tenth of a second, which a wrong command need not wait for

        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise InUse(f"{self} is in use by another process") from None
        except OSError as error:
            raise DirectoryError(f"{self}: nothing can be written there ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()
            if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= {".hydra", ".lock"}:
                shutil.rmtree(self.path)

    def keep_words(self) -> None:
        """Note what the command line says, where that is not noted yet: a later resume goes on from there.

        Hydra itself does so before a run begins, but not where one goes on, perhaps with other settings, nor where the
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

    def provide(self) -> None:
        """Make the directory again if somebody has deleted it. Raises OSError."""
        if not self.path.exists():
            say(f"{self} was deleted: it is made again")
        if not self.overrides.exists():
            self.keep_words()

    @property
    def overrides(self) -> Path:
        """What the command line said, as Hydra saved it."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest, in case something befalls that."""
        return self.path / "checkpoints" / "previous.pt"

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that there is, whether or not it is sound."""
        return next((file for file in (self.last, self.previous) if file.is_file()), None)

    @property
    def status(self) -> str | None:
        """What result.json says of how it ended, or that it is running; None if it says nothing."""
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
        """A line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """What became of the run."""
        return self.path / "result.json"

    @property
    def range_test(self) -> Path:
        """The picture that `lr_find=true` makes."""
        return self.path / "lr_find.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"


def which_sweep(directory: Path) -> str:
    """The setting that means the sweep in a directory."""
    named = directory.parent == Path("multirun")
    return f"sweep={directory.name}" if named else f"hydra.sweep.dir={directory}"
