"""What the tests share: runs of the real program, in this process and as commands, on small generated data."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from engine import build
from engine.command import register_resolvers
from engine.rundir import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

# 100 generated images to train on (10 of them held out), 100 to test on: a second's work.
SMALL = (
    "dataset=shapes",
    "dataset.train_size=100",
    "dataset.test_size=100",
    "model=lenet5",
    "trainer.batch_size=32",
    "trainer.device=cpu",
    "trainer.precision=fp32",  # what is tried out may differ from one run to the next
    "trainer.memory_format=channels_last",
    "trainer.max_epochs=2",
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what tests start inherits, as in a terminal
register_resolvers()
settings.register_profile("no deadline", deadline=None)  # the machine may be busy
settings.load_profile("no deadline")

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # share the cores, in this process and in the commands
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    """Begin with the same random numbers, whichever tests came before, and survive a reader who leaves."""
    torch.manual_seed(0)
    yield
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # Python's own; not so behind a command that shows something


@pytest.fixture
def heeding_hangups() -> Iterator[None]:
    """A test, and what it starts, hear of a terminal that is closed, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def composed(*overrides: str, config_name: str = "config", hydra: bool = False) -> DictConfig:
    """The configuration that these overrides make."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, overrides=list(overrides), return_hydra_config=hydra)


def rebuilt(checkpoint: dict[str, Any], tta: DictConfig | None = None) -> tuple[build.Trained, build.Unseen]:
    """The network of a checkpoint, and the images that its training did not use."""
    trained = build.trained(checkpoint, weights=None, device="cpu", tta=tta)
    return trained, build.unseen(checkpoint, trained, eval_batch_size=None, root=None)


def option_names(group: str) -> list[str]:
    """The options of a group of conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@dataclass
class Run:
    """A finished or interrupted run and what it left."""

    directory: RunDirectory

    @property
    def result(self) -> dict[str, Any]:
        """result.json."""
        return json.loads(self.directory.result.read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        return [json.loads(line) for line in self.directory.metrics.read_text().splitlines()]

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        """A checkpoint's content."""
        return torch.load(self.directory.path / "checkpoints" / f"{name}.pt", weights_only=True)


def train_in(directory: Path, *overrides: str) -> None:
    """Run train.py's main in this process and in a directory."""
    import train as program

    config = composed(*overrides, hydra=True)
    config.hydra.runtime.output_dir = str(directory)
    directory.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(config)
    program.main(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Run]:
    """Run train.py's main in this process, on the small data unless overrides say otherwise."""

    def run(*overrides: str, directory: Path | None = None) -> Run:
        path = directory or tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        another = any(override.startswith("dataset=") for override in overrides)
        small = [override for override in SMALL if not (another and override.startswith("dataset"))]
        train_in(path, *small, *overrides)
        return Run(RunDirectory(path))

    return run


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
            env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        )

    return run
