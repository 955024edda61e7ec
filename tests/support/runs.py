"""Configurations, and runs of the real program in this process, on small generated data."""

import json
import pickle
import re
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from engine.build import from_checkpoint
from engine.config.command import register_resolvers
from engine.run.directory import RunDirectory
from engine.training.step import TrainStep

ROOT = Path(__file__).resolve().parent.parent.parent
CONF = ROOT / "conf"

# 100 generated images to train on (10 of them held out), 100 to test on: an epoch has 3 steps.
SMALL = (
    "dataset=shapes",
    "dataset.train_size=100",
    "dataset.test_size=100",
    "model=lenet5",
    "trainer.batch_size=32",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.memory_format=channels_last",
    "trainer.max_epochs=2",
)

# An override that sets a key, as opposed to one that chooses an option or adds a key.
SETTING = re.compile(r"(?!hydra\.)(?:\w+\.[\w.]+|seed|resume|init_from)=")

register_resolvers()


@cache
def _composed(overrides: tuple[str, ...], config_name: str, hydra: bool) -> bytes:
    """A pickled configuration, of which a copy takes half a millisecond where deepcopy takes twelve."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return pickle.dumps(compose(config_name, overrides=list(overrides), return_hydra_config=hydra))


def composed(*overrides: str, config_name: str = "config", hydra: bool = False) -> DictConfig:
    """The configuration that these overrides compose to.

    Composing takes a tenth of a second: what only sets a key is set in a copy of what the other overrides compose to.
    """
    settings = [override for override in overrides if SETTING.match(override)]
    config = pickle.loads(_composed(tuple(word for word in overrides if word not in settings), config_name, hydra))
    for override in OverridesParser.create().parse_overrides(settings):
        OmegaConf.update(config, override.key_or_group, override.value())
    if hydra:
        config.hydra.overrides.task = list(overrides)
    return config


def option_names(group: str) -> list[str]:
    """The options of a group of conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def rebuilt(
    checkpoint: dict[str, Any], tta: DictConfig | None = None
) -> tuple[from_checkpoint.Trained, from_checkpoint.EvalData]:
    """The network of a checkpoint, and the images that its training did not use."""
    trained = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu", tta=tta)
    return trained, from_checkpoint.eval_data(checkpoint, trained, eval_batch_size=None, root=None)


@dataclass
class Run:
    """The directory of a finished or interrupted run, and what it holds."""

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


def train_small(directory: Path, *overrides: str) -> Run:
    """Run train.py's main in this process and in a directory, on the small data unless overrides say otherwise."""
    another = any(override.startswith("dataset=") for override in overrides)
    small = [override for override in SMALL if not (another and override.startswith("dataset"))]
    train_in(directory, *small, *overrides)
    return Run(RunDirectory(directory))


# Comparing runs


def same(first: Any, second: Any) -> bool:
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))
    return first == second


def figures(records: list[dict]) -> list[dict]:
    """The records of epochs without what depends on the clock."""
    return [
        {name: value for name, value in record.items() if name not in {"seconds", "images_per_second"}}
        for record in records
    ]


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves as its own reader reads them, but for those of the clock: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("speed")
    }


def interrupt_after(monkeypatch, steps: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal in the middle of the training step of this number, counted from 1."""
    plain, count = TrainStep.__call__, 0

    def step(self, state, images, targets):
        nonlocal count
        count += 1
        if count == steps:
            signal.raise_signal(number)
        plain(self, state, images, targets)

    monkeypatch.setattr(TrainStep, "__call__", step)
