"""Fixtures, and what holds for every test: threads, random numbers, signals."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from engine.run.directory import RunDirectory
from tests.support.runs import ROOT, Run, train_small

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what tests start inherits, as in a terminal
settings.register_profile("no deadline", deadline=None)  # the machine may be busy
settings.load_profile("no deadline")

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # share the cores, in this process and in the commands
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    """Begin with the same random numbers whichever tests came before, and keep SIGPIPE as Python sets it."""
    torch.manual_seed(0)
    yield
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a command that only prints restores the default


@pytest.fixture
def with_sighup() -> Iterator[None]:
    """Let a test, and what it starts, receive SIGHUP, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Run]:
    """Run train.py's main in this process, on the small data unless overrides say otherwise."""

    def run(*overrides: str, directory: Path | None = None) -> Run:
        return train_small(directory or tmp_path / f"run{len(list(tmp_path.iterdir()))}", *overrides)

    return run


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on the small data, made once a session. Tests take a copy of it: `finished`."""
    return train_small(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def finished(finished_once: Run, tmp_path: Path) -> Run:
    """A finished run on the small data, of two epochs, in a directory of the test's own."""
    shutil.copytree(finished_once.directory.path, tmp_path / "finished")
    return Run(RunDirectory(tmp_path / "finished"))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a Python program of the project as a user would, from an empty directory."""

    def run(*arguments: str, cwd: Path = tmp_path, timeout: float = 120, **environment: str):
        program, *rest = arguments
        return subprocess.run(
            [sys.executable, program if program.startswith("-") else str(ROOT / program), *rest],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run
