"""Torch's compiler is not imported where nothing asks for it."""

import pytest
from conftest import ROOT, option_names

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
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import torch
from conftest import composed
from test_options import tiny_splits
from engine import build
for option in sys.argv[1:]:
    config = composed("model=lenet5", "trainer.batch_size=8", "trainer.device=cpu", "optimizer=" + option)
    machine, splits = build.possible_machines(config)[0], tiny_splits()
    state, step = build.state(config, splits, machine), build.train_step(config, machine)
    for images, targets in build.loaders(config, splits, machine).train.epoch(0):
        step(state, images, targets)
    state.optimizer.load_state_dict(state.optimizer.state_dict())
    if "torch._dynamo" in sys.modules:
        sys.exit(option)
{LOOK}
"""


def test_no_optimizer_imports_the_compiler(command):
    ended = command("-c", OPTIMIZERS, *option_names("optimizer"), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("not imported\n")


@pytest.mark.parametrize(("words", "imported"), [((), False), (("trainer.deterministic=true",), True)], ids=str)
def test_a_run_imports_the_compiler_where_it_needs_it(command, tmp_path, words, imported):
    """It does for deterministic algorithms, whose switch is the compiler's as well."""
    tiny = ("dataset=shapes", "dataset.train_size=100", "dataset.test_size=100", "trainer.max_epochs=1")
    ended = command("-c", RUN, "model=lenet5", *tiny, *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == ("imported" if imported else "not imported")
