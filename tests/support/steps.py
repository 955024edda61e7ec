"""A training step of any configuration, on random images that need no data set."""

import re

import torch
from omegaconf import DictConfig

from data.dataset import Dataset, Images, split
from engine.build import autotune, objects
from engine.config.schedule import make_schedule
from engine.training.step import scale_learning_rate
from tests.support.runs import CONF, composed, option_names

# An epoch in which swa, too, averages. It is no whole number: at the end of an epoch swa reads a counter.
IN_THE_LAST_EPOCH = 199.5


def tiny_splits():
    """Random images in ten classes, in place of the data set."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    part = Images(images, torch.arange(40) % 10)
    return split(Dataset(part, part, [str(number) for number in range(10)]), val_size=10)


def train_a_step(*overrides: str) -> torch.Tensor:
    """One step of what the overrides make; the change of the weights."""
    return step_of(composed("model=lenet5", "trainer.device=cpu", "trainer.batch_size=4", *overrides))


def step_of(config: DictConfig) -> torch.Tensor:
    """One step of a configuration; the change of the weights."""
    torch.manual_seed(config.seed)
    backend, splits = autotune.possible_backends(config)[0], tiny_splits()
    state = objects.state(config, splits, backend)
    train = objects.loaders(config, splits, backend).train
    before = torch.cat([parameter.detach().clone().flatten() for parameter in state.model.parameters()])
    state.model.train()
    images, targets = next(train.epoch(0))
    scale_learning_rate(state.optimizer, make_schedule(config)(1))
    objects.train_step(config, backend)(state, images, targets)
    assert state.totals.isfinite().all()
    change = torch.cat([parameter.detach().flatten() for parameter in state.model.parameters()]) - before
    assert change.isfinite().all()
    return change


def constructors() -> dict[str, str]:
    """Each class that networks are built of, with the first network that is."""
    found: dict[str, str] = {}
    for name in option_names("model"):
        text = (CONF / "model" / f"{name}.yaml").read_text()
        if target := re.search(r"^_target_: (\S+)", text, re.M):
            found.setdefault(target[1], name)
    return found
