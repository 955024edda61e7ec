"""Where the files of a run lie in its directory. No torch here, so that a wrong path is said at once."""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. As text: relative to where the user stands, if it is below."""

    path: Path

    def __str__(self) -> str:
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative

    @property
    def root(self) -> str:
        """The folder that holds this run and its like: where TensorBoard should look."""
        relative = Path(str(self))
        return str(self) if relative.is_absolute() else next(iter(relative.parts), ".")

    @property
    def to_go_on(self) -> str:
        """The command that continues this run, as it can be typed."""
        if re.fullmatch(r"[\w./+-]+", str(self), re.ASCII):
            return f"python train.py resume={self}"
        quoted = str(self).replace("'", r"\'")
        argument = f"resume='{quoted}'"
        return f"python train.py {shlex.quote(argument)}"

    def keep_overrides(self, overrides: Sequence[str]) -> None:
        """Note what the command line now says: a later resume goes on from there."""
        kept = [override for override in overrides if not override.lstrip("+").startswith(("resume=", "resume_force="))]
        self.overrides.parent.mkdir(exist_ok=True)
        self.overrides.write_text(yaml.safe_dump(kept))

    def remove_if_unused(self) -> None:
        """Remove the directory if it holds nothing but the configuration that Hydra put there."""
        if self.path.is_dir() and [entry.name for entry in self.path.iterdir()] == [".hydra"]:
            shutil.rmtree(self.path)

    @property
    def overrides(self) -> Path:
        """What the command line said, as Hydra saved it."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.pt"

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
