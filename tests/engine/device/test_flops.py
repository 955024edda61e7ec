"""What a step costs beyond the network, counted rather than timed: operators, waits for the device, copies."""

import platform
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.build import autotune, objects
from engine.device.flops import count_multiply_adds
from engine.training.step import scale_learning_rate
from tests.support.marks import slow_except
from tests.support.networks import make, multiply_adds
from tests.support.runs import ROOT, composed, option_names
from tests.support.steps import IN_THE_LAST_EPOCH, tiny_splits

# Operators whose result Python needs, for which it has to wait for the device.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique2",
    "_unique2",
    "unique_dim",
    "equal",
    "is_nonzero",
}
COPYING = {"copy_", "_to_copy", "clone"}


class Counting(TorchDispatchMode):
    """Counts the operators that are called in this context, by name, and keeps the tensors that were waited for."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.waited_for = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        self.calls[name] += 1
        masked = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if name in WAITING or masked:
            self.waited_for.append(arguments[0])
        return function(*arguments, **(keywords or {}))


def counted(work: Callable[[], object]) -> Counter:
    """The operators of `work`, by name, the second time it is done: the first time some memory is made."""
    work()
    with Counting() as counting:
        work()
    return counting.calls


class Sides:
    """A run, and the same step by hand on a batch that lies there."""

    def __init__(self, *overrides: str):
        fixed = ("trainer.precision=bf16", "trainer.memory_format=channels_last", "trainer.device=cpu")
        config = composed("model=resnet20", "model.depths=[1,1,1]", "trainer.batch_size=8", *fixed, *overrides)
        self.backend, splits = autotune.possible_backends(config)[0], tiny_splits()
        self.state = objects.state(config, splits, self.backend)
        self.state.model.train()
        self.train = objects.loaders(config, splits, self.backend).train
        self.step = objects.train_step(config, self.backend)
        self.batch = next(self.train.epoch(0))

    def ours(self) -> None:
        scale_learning_rate(self.state.optimizer, 1.0)
        self.step(self.state, *self.batch)

    def bare(self) -> None:
        images, targets = self.batch
        self.state.optimizer.zero_grad()
        with self.backend.precision.autocast():
            loss = self.step.loss(self.state.model(images), targets)
        loss.backward()
        self.state.optimizer.step()

    def epoch(self) -> None:
        """All that fit does in an epoch, but for its end."""
        for images, targets in self.train.epoch(0):
            scale_learning_rate(self.state.optimizer, 1.0)
            self.step(self.state, images, targets)
            for average in self.state.averages.values():
                average.update(self.state.model, epoch=IN_THE_LAST_EPOCH)


def test_a_step_is_little_more_than_the_networks_forward_and_backward_and_the_update():
    sides = Sides("model.depths=[3,3,3]")
    ours, bare = counted(sides.ours), counted(sides.bare)
    assert bare.total() > 300
    assert not bare - ours
    assert (ours - bare).total() <= 18, ours - bare


@pytest.mark.parametrize("overrides", [(), ("regularization=[cutout]",)], ids=" ".join)
def test_a_batch_is_made_of_few_operators_and_none_for_each_image(overrides):
    """What an epoch's numbers come to is made at its beginning, for all images at once."""
    batches, beginnings = [], []
    for batch_size in (5, 7):
        train = Sides(f"trainer.batch_size={batch_size}", *overrides).train
        epoch, rest, nothing = (
            counted(lambda train=train, first=first: list(train.epoch(0, first))).total()
            for first in (0, 1, len(train))
        )
        batches.append(epoch - rest)
        beginnings.append(nothing)
    assert batches[0] == batches[1] <= (29 if overrides else 20)
    assert beginnings[0] == beginnings[1] <= (45 if overrides else 18)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_is_one_operator_for_each_group_of_parameters(precision):
    sides = Sides(f"trainer.precision={precision}")
    sides.bare()
    calls = counted(sides.bare)
    assert calls["_fused_sgd_"] == len(sides.state.optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("overrides", "copied"),
    [((), 0), (("trainer.on_nonfinite=skip",), 2), (("regularization=[sam]",), 6)],
    ids=str,
)
def test_weights_and_activations_are_copied_only_to_change_their_precision(overrides, copied):
    """In fp32 nothing is: images, weights and gradients have one memory format all the way.

    What may have to be put back is copied in one operator for all of a type: statistics, counters and, by SAM, weights.
    """
    calls = counted(Sides("trainer.precision=fp32", *overrides).ours)
    assert {name: count for name, count in calls.items() if name in COPYING} == {}
    assert calls["_foreach_copy_"] == copied


@pytest.mark.parametrize("name", ["densenet100bc", "mobilenet_v3_small", "resnet20", "sknet26"])
def test_multiply_adds_are_those_of_torchs_own_counter(name):
    model = make(name)
    assert count_multiply_adds(model, torch.Size((3, 32, 32))) == multiply_adds(model.to("meta")) > 0


# What is done in the step; what images go through before is in tests/data, and the other optimizers are torch's.
OWN = [f"optimizer={option}" for option in ("lars", "lamb", "lion", "muon", "rmsprop", "sgd_lookahead")]
OWN += [f"regularization=[{option}]" for option in ("cutmix", "drop_block", "drop_path", "ema", "gradient_clipping")]
OWN += [f"regularization=[{option}]" for option in ("max_norm", "mixup", "sam", "shake_drop", "swa")]
OWN += ["trainer.gradient_accumulation=2"]
ALL = [f"optimizer={option}" for option in option_names("optimizer")]
ALL += [f"regularization=[{option}]" for option in option_names("regularization")]
ALL += ["regularization=[mixup,cutmix] regularization.mixup.per_image=true", "trainer.gradient_accumulation=2"]


@pytest.mark.parametrize("override", slow_except(OWN, ALL))
def test_no_step_waits_for_the_device(override, monkeypatch):
    """Neither in an operator nor on the way to Python's numbers."""
    sides = Sides(*override.split())
    sides.epoch()
    for method in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, method, None)
    with Counting() as counting:
        sides.epoch()
    # Torch keeps its optimizers' counters in main memory, on whatever device the weights lie.
    counters = {
        value.data_ptr()
        for state in sides.state.optimizer.state.values()
        for value in state.values()
        if value.ndim == 0
    }
    assert {value.data_ptr() for value in counting.waited_for} <= counters


MEMORY = """
import resource, sys
import torch
from omegaconf import OmegaConf
from engine.build import autotune
from engine.device.device import backends
if "set up" in sys.argv:
    [backend] = backends(torch.device("cpu"), precision="fp32", memory_format="contiguous")
    autotune.set_up(OmegaConf.create({"seed": 0, "trainer": {"deterministic": False}}), backend)
for tensors in (9, 4):  # glibc before 2.38 takes up again what is freed only when its small caches are full
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(tensors):
        torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory alone")
def test_the_system_need_not_clear_the_memory_of_large_tensors_again_in_each_step(command):
    """Tensors of 64 MB, each freed before the next one, in pages that have 2 MB at most."""
    by_itself, kept = [int(command("-c", MEMORY, *said, cwd=ROOT).stdout) for said in ([], ["set up"])]
    assert by_itself >= 4 * 32
    assert kept < 32
