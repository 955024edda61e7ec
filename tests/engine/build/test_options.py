"""Every option of every group composes, builds and trains a step; those of the model group do so in test_zoo.py."""

import inspect
import random
from collections.abc import Callable
from functools import cache
from itertools import combinations, permutations, product

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from engine.build import autotune, objects
from engine.config.combinations import check_model, constructor_arguments
from engine.config.schedule import make_schedule
from engine.run.errors import CommandError
from engine.training.step import scale_learning_rate
from tests.support.marks import slow_except
from tests.support.runs import composed, option_names
from tests.support.steps import constructors, tiny_splits, train_a_step

SMALL = ("model=resnet20", "model.depths=[1,1,1]")

# What makes itself felt in a single step of four images.
FELT = {
    "cutmix": "probability=1",
    "drop_path": "rate=0.9",
    "gradient_clipping": "max_norm=0.001",
    "max_norm": "limit=0.1",
    "random_erasing": "probability=1",
}


@pytest.mark.parametrize("option", option_names("regularization"))
def test_a_regularizer_makes_another_step(option):
    """But for the averages of the weights, which only watch."""
    plain = train_a_step(*SMALL, "regularization=[]")
    values = [f"regularization.{option}.{FELT[option]}"] if option in FELT else []
    change = train_a_step(*SMALL, f"regularization=[{option}]", *values)
    assert change.any()
    assert torch.equal(change, plain) == (option in {"ema", "swa"})


@pytest.mark.parametrize("option", slow_except(["sgd", "muon"], option_names("optimizer")))
def test_an_optimizer_follows_every_schedule(option):
    """From one to the next in the middle of their epochs, with what it remembers; the rate is what it is told."""
    config = composed("model=lenet5", f"optimizer={option}", "trainer.device=cpu", "trainer.batch_size=4")
    backend, splits = autotune.possible_backends(config)[0], tiny_splits()
    state, train_step = objects.state(config, splits, backend), objects.train_step(config, backend)
    images, targets = next(objects.loaders(config, splits, backend).train.epoch(0))
    for name, schedule in schedules().items():
        before = [parameter.clone() for parameter in state.model.parameters()]
        scale_learning_rate(state.optimizer, factor := 1e-3 * schedule(1.5))
        train_step(state, images, targets)
        moved = [not torch.equal(*pair) for pair in zip(before, state.model.parameters(), strict=True)]
        assert any(moved) == (factor > 0), name
        assert all(parameter.isfinite().all() for parameter in state.model.parameters()), name


@cache
def schedules() -> dict[str, Callable[[float], float]]:
    """Every schedule by name, of ten epochs."""
    return {
        name: make_schedule(composed(f"scheduler={name}", "trainer.max_epochs=10"))
        for name in option_names("scheduler")
    }


@pytest.mark.parametrize("option", option_names("dataset"))
def test_a_data_set_composes(option, tmp_path):
    config = composed(f"dataset={option}", *([f"dataset.root={tmp_path}"] if option == "folder" else []))
    assert objects.plain(config.dataset)["_target_"].startswith("data.")


@pytest.mark.parametrize("target", constructors())
def test_a_constructors_arguments_are_read_from_its_source(target):
    """The check of regularizers, which must not import torch, finds what the class itself has."""
    constructor = inspect.signature(get_class(target).__init__)
    assert constructor_arguments(target) == set(constructor.parameters)


@pytest.mark.parametrize(("model", "places"), [("lenet5", 1), ("mobilenet_v1", 1), ("resnet20", 4)])
def test_a_regularizer_has_a_place_in_the_network_or_is_refused(model, places):
    regularizers, refused = ("dropout", "drop_path", "shake_drop", "drop_block"), 0
    for regularizer in regularizers:
        config = composed(f"model={model}", f"regularization=[{regularizer}]", hydra=True)
        settings = objects.plain(config.model)
        if regularizer in constructor_arguments(settings["_target_"]):
            check_model(config)
            objects.network(settings, num_classes=10, in_channels=3)
            continue
        refused += 1
        with pytest.raises(CommandError, match=f"model={model} does not support regularization={regularizer}"):
            check_model(config)
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            objects.network(settings, num_classes=10, in_channels=3)
    assert len(regularizers) - refused == places


def halves() -> list[tuple[str, str, list[str]]]:
    """An optimizer, a schedule and half of the regularizers, so often that every two options meet.

    Each optimizer and each schedule meets some half and the other one, so all; two regularizers meet where they
    fall into the same half.
    """
    optimizers, schedules, regularizers = map(option_names, ("optimizer", "scheduler", "regularization"))
    generator, chosen = random.Random(0), []
    for number in range(max(len(optimizers), len(schedules))):
        shuffled = generator.sample(regularizers, len(regularizers))
        for half in (shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]):
            chosen.append((optimizers[number % len(optimizers)], schedules[number % len(schedules)], half))
    return chosen


def test_every_two_options_meet():
    met = {pair for _, _, half in halves() for pair in combinations(sorted(half), 2)}
    assert met == set(combinations(option_names("regularization"), 2))
    for place, group in enumerate(("optimizer", "scheduler")):
        met = {(row[place], regularizer) for row in halves() for regularizer in row[2]}
        assert met == set(product(option_names(group), option_names("regularization")))


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "half"),
    [pytest.param(*row, marks=pytest.mark.slow if number % 3 else ()) for number, row in enumerate(halves())],
)
def test_options_that_meet_train_a_step(optimizer, scheduler, half):
    chosen = (f"optimizer={optimizer}", f"scheduler={scheduler}", f"regularization=[{','.join(half)}]")
    assert train_a_step(*SMALL, *chosen).any()


def test_all_regularizers_at_once():
    every = ",".join(option_names("regularization"))
    assert train_a_step(*SMALL, f"regularization=[{every}]").any()


def test_no_regularization_at_all():
    config = composed("regularization=[]")
    assert OmegaConf.to_container(config.regularization) == {}
    assert train_a_step("regularization=[]").any()


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_precisions_and_memory_formats(precision, memory_format):
    assert train_a_step(f"trainer.precision={precision}", f"trainer.memory_format={memory_format}").any()


@pytest.mark.parametrize("chosen", list(permutations(["cutout", "mixup", "cutmix"])))
def test_image_operations_run_in_the_order_of_their_places(chosen):
    """Whatever the order on the command line; those at the same place by name."""
    config = composed(f"regularization=[{','.join(chosen)}]", "trainer.device=cpu")
    train = objects.loaders(config, tiny_splits(), autotune.possible_backends(config)[0]).train
    assert [type(operation).__name__ for operation in train.operations] == ["RandomCrop", "RandomFlip", "Cutout"]
    assert [type(mixing).__name__ for mixing in train.mixings] == ["CutMix", "Mixup"]


def test_an_image_operation_can_be_left_out():
    config = composed("~augmentation.flip", "augmentation.crop.padding=2", "trainer.device=cpu")
    train = objects.loaders(config, tiny_splits(), autotune.possible_backends(config)[0]).train
    assert [operation.padding for operation in train.operations] == [2]
