"""Commands as a user types them, checked in this process."""

import os
import re
import shlex
import sys

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


def processor_time() -> float:
    """Processor seconds of the processes that this one has started and waited for."""
    spent = os.times()
    return spent.children_user + spent.children_system
