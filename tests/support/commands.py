"""Commands as a user types them, checked in this process."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.config import command as command_module


def answer(program: str, arguments: str, monkeypatch, capsys) -> str:
    """What the program says to these arguments before it would import torch; its exit status must be 2."""
    monkeypatch.setattr(sys, "argv", [program, *shlex.split(arguments)])
    with pytest.raises(SystemExit) as exit_:
        command_module.command_line({"train.py": "config", "evaluate.py": "evaluate"}[program])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"{program}: .+\n", said.err), said.err
    assert said.err[:-1].isprintable()
    return said.err


def processor_seconds(command: Sequence[Any], directory: Path) -> float:
    """The least processor time of three runs of a command: on the clock it also waits for whatever else runs."""

    def seconds() -> float:
        before = os.times()
        subprocess.run(command, cwd=directory, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(seconds() for _ in range(3))


@cache
def seconds_of_torch() -> float:
    """Processor time of importing torch: a command that is answered at once takes less."""
    return processor_seconds([sys.executable, "-c", "import torch"], Path.cwd())
