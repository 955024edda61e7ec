"""Torch's compiler is not imported in a usual run, and weights and optimizer do not outlive theirs."""

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from engine.build import autotune, objects
from engine.device.compile import compile_network
from engine.training.optimizers.eager import eager
from tests.support.runs import ROOT, composed, option_names
from tests.support.steps import tiny_splits

LOOK = "print('imported' if 'torch._dynamo' in sys.modules else 'not imported')"
RUN = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
finally:
    {LOOK}
"""
OPTIMIZERS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from engine.build import autotune, objects
from tests.support.runs import composed
from tests.support.steps import tiny_splits
for option in sys.argv[1:]:
    config = composed("model=lenet5", "trainer.batch_size=8", "trainer.device=cpu", "optimizer=" + option)
    backend, splits = autotune.possible_backends(config)[0], tiny_splits()
    state, step = objects.state(config, splits, backend), objects.train_step(config, backend)
    for images, targets in objects.loaders(config, splits, backend).train.epoch(0):
        step(state, images, targets)
    state.optimizer.load_state_dict(state.optimizer.state_dict())
    if "torch._dynamo" in sys.modules:
        sys.exit(option)
{LOOK}
"""


@pytest.mark.slow
def test_no_optimizer_imports_the_compiler(command):
    ended = command("-c", OPTIMIZERS, *option_names("optimizer"), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("not imported\n")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "imported"), [((), False), (("trainer.deterministic=true",), True)], ids=str)
def test_a_run_imports_the_compiler_where_it_needs_it(command, tmp_path, words, imported):
    """It does for deterministic algorithms, whose switch is the compiler's as well."""
    tiny = ("dataset=shapes", "dataset.train_size=100", "dataset.test_size=100", "trainer.max_epochs=1")
    ended = command("-c", RUN, "model=lenet5", *tiny, *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == ("imported" if imported else "not imported")


def test_weights_and_optimizer_go_with_their_last_user():
    """The next run of a sweep wants their memory, long before Python looks for what only refers to itself."""
    gc.collect()
    gc.disable()
    try:
        for option in option_names("optimizer"):
            config = composed("model=lenet5", "trainer.batch_size=8", "trainer.device=cpu", f"optimizer={option}")
            backend, splits = autotune.possible_backends(config)[0], tiny_splits()
            state, step = objects.state(config, splits, backend), objects.train_step(config, backend)
            step(state, torch.randn(4, 3, 32, 32), torch.zeros(4).long())
            references = [weakref.ref(state.optimizer), weakref.ref(next(state.model.parameters()))]
            del state
            assert [reference() for reference in references] == [None, None], option
    finally:
        gc.enable()


class Layers(nn.Module):
    """So many layers, in the same forward pass for any number."""

    def __init__(self, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.slow
def test_each_of_many_networks_of_a_class_is_compiled_for_each_shape_and_an_equal_one_is_not_again(monkeypatch):
    """Torch's own limit is eight in all, behind which a sweep over a family would compute uncompiled."""
    from torch._dynamo import config

    compiled = []

    def note(graph: torch.fx.GraphModule, _: list) -> Callable:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=note))
    counts = []
    with config.patch(recompile_limit=8, accumulated_recompile_limit=8):
        for depth in (1, 2, 3, 4, 5, 6, 1, 6):
            network = Layers(depth)
            compile_network(network)
            for size in (2, 3, 4, 3):
                network(torch.randn(size, 2))
            counts.append(len(compiled))
    assert counts == [3, 6, 9, 12, 15, 18, 18, 18]


def test_steps_still_call_their_hooks():
    parameter, called = torch.nn.Parameter(torch.ones(1)), []
    optimizer = eager(torch.optim.SGD)([parameter], lr=0.5)
    optimizer.register_step_post_hook(lambda *_: called.append(True))
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert called == [True]
    assert parameter.item() == 0.5
