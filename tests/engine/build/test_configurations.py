"""What is accepted can be built: settings drawn from all keys of all groups, good and bad and in any combination."""

import math
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from engine.build import autotune, objects
from engine.config.check import check
from engine.config.command import initialized
from engine.config.overrides import parse
from engine.config.schedule import make_schedule
from engine.config.schema import BOUND, LIST, keys_of_files, known_keys
from engine.device.device import backends
from engine.run.errors import CommandError, RunError
from engine.training.step import scale_learning_rate
from tests.support.runs import composed, option_names
from tests.support.steps import constructors, tiny_splits

MODELS = sorted(constructors().values())
ATTENTION = [f"+attention@model.{place}_attention={kind}" for place in ("block", "stage") for kind in ("ge", "bam")]
NEVER_RIGHT = ["nan", "inf", "-1", "1e30", "99999999999999999999", "null", "maybe", "[]", "{a:1}", "''", "${nope}"]
LARGEST = 60  # blocks of a network that is built here
SPLITS = tiny_splits()


def edges(form: str) -> list[str]:
    """Values at and beside the bounds of one alternative of a form, as they are typed."""
    if match := LIST.fullmatch(form):
        least, most, member = match.groups()
        counts = {int(least or 2), int(most or least or 3)}
        return [f"[{','.join([entry] * count)}]" for entry in edges(member) for count in counts]
    kind, _, bounds = form.partition(" ")
    limits = [float(limit) for _, limit in BOUND.findall(bounds) if limit[0] in "-.0123456789"]
    if kind == "int":
        return [str(int(limit) + step) for limit in limits for step in (-1, 0, 1, 2, 3)]
    if kind == "float":
        beside = [math.nextafter(limit, direction) for limit in limits for direction in (-math.inf, math.inf)]
        return [repr(number) for number in [*limits, *beside, 0.5, 3.0]]
    return {"bool": ["true", "false"], "text": ["some"], "directory": ["."], "path": ["."]}.get(kind, [form])


@st.composite
def commands(draw) -> list[str]:
    """A command line: an option of some groups, and some values for keys that these have."""
    groups = {
        "model": MODELS,
        "optimizer": option_names("optimizer"),
        "scheduler": option_names("scheduler"),
        "dataset": ["cifar10", "cifar100", "shapes"],
        "tta": option_names("tta"),
    }
    words = [f"{group}={draw(st.sampled_from(options))}" for group, options in groups.items() if draw(st.booleans())]
    chosen = draw(st.lists(st.sampled_from(option_names("regularization")), max_size=4, unique=True))
    words += [f"regularization=[{','.join(chosen)}]"]
    words += draw(st.lists(st.sampled_from(ATTENTION), max_size=1))
    with initialized(None):
        keys = known_keys(list(keys_of_files("config", words)))
    names = sorted(
        name for name, key in keys.items() if key and key.form and not key.follows and not name.startswith("hydra.")
    )
    for name in draw(st.lists(st.sampled_from(names), max_size=4, unique=True)):
        typical = [value for alternative in keys[name].form.split("|") for value in edges(alternative.strip())]
        value = draw(st.sampled_from(NEVER_RIGHT) if draw(st.integers(0, 9)) == 0 else st.sampled_from(typical))
        words.append(f"{name}={value}")
    return words


def build_network(config: DictConfig) -> None:
    """Build the network and let it see two images, without memory and without arithmetic."""
    model = objects.plain(config.model)
    if sum(model.get("depths", [model.get("depth", 1)])) > LARGEST:
        return
    with torch.device("meta"):
        network = objects.network(model, num_classes=10, in_channels=3)
        network(torch.zeros(2, 3, 32, 32))


def train_a_step(config: DictConfig) -> None:
    """Build everything else around a small network, and take a step."""
    with suppress(RunError):  # where this machine has no GPU
        autotune.possible_backends(config)
    backend = backends(torch.device("cpu"), precision="fp32", memory_format="contiguous")[0]
    config = OmegaConf.merge(config, {"trainer": {"device": "cpu"}})
    OmegaConf.set_struct(config, False)
    config.model = composed("model=lenet5").model
    state, loaders = objects.state(config, SPLITS, backend), objects.loaders(config, SPLITS, backend)
    schedule = make_schedule(config, steps_per_epoch=len(loaders.train))
    for share in (0, 0.3, 1):
        scale_learning_rate(state.optimizer, schedule(share * config.trainer.max_epochs))
    for images, targets in loaders.train.epoch(0):
        objects.train_step(config, backend)(state, images, targets)
        break
    for average in state.averages.values():
        average.update(state.model, epoch=1)
    for images, _ in loaders.test:
        assert sum(weight for weight, _ in objects.instantiate(config.tta)(images)) == pytest.approx(1)
        break


def drawn(count: int) -> settings:
    """So many examples, the same ones each time."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=False,
    )


@drawn(3)
@given(words=commands())
def test_what_is_accepted_can_be_built(words):
    check_and_build(words)


@pytest.mark.slow
@drawn(60)
@given(words=commands())
def test_what_is_accepted_can_be_built_at_length(words):
    check_and_build(words)


def check_and_build(words: list[str]) -> None:
    """What the check accepts must be buildable; what it refuses must be refused in one line."""
    said, config = None, None
    with initialized(None):
        try:
            config = check("config", [parse(word) for word in words])
        except CommandError as mistake:
            said = str(mistake)
    if config is None:
        assert len(said.splitlines()) == 1
        return
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    build_network(config)
    train_a_step(config)  # what is refused only here, in whatever words, was accepted above and so is a mistake
