"""What only a GPU can show; skipped where there is none that torch can use."""

import pytest
import torch
from conftest import composed, option_names, rebuilt
from test_options import tiny_splits
from test_resume import figures, interrupt_after, same

from engine import build
from engine.evaluate import evaluate
from engine.machine import precisions
from engine.step import set_learning_rate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
CUDA = torch.device("cuda")


def parts(*overrides: str) -> tuple:
    """A small run on the GPU: state, batches, step."""
    config = composed("model=resnet20", "trainer.batch_size=8", "trainer.device=cuda", *overrides)
    machine, splits = build.possible_machines(config)[0], tiny_splits()
    build.set_up(config, machine)
    state, loaders = build.state(config, splits, machine), build.loaders(config, splits, machine)
    state.model.train()
    return state, loaders, build.train_step(config, machine)


@pytest.mark.parametrize(
    "overrides",
    [
        *[(f"regularization=[{option}]",) for option in option_names("regularization")],
        *[(f"optimizer={option}",) for option in option_names("optimizer")],
        *[(f"trainer.precision={name}",) for name in ("fp32", "tf32", "bf16")],
        ("trainer.micro_batches=2",),
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_gpu(overrides):
    """From the second batch on: what an epoch draws is sent to the GPU with its first."""
    state, loaders, step = parts(*overrides)
    for images, targets in loaders.train.epoch(0):  # what is made once is made here
        step(state, images, targets)
    batches = loaders.train.epoch(1)
    step(state, *next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, targets in batches:
            set_learning_rate(state.optimizer, 1.0)
            step(state, images, targets)
            for average in state.averages.values():
                average.update(state.model, epoch=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.totals.isfinite().all()


@pytest.mark.parametrize("overrides", [(), ("trainer.micro_batches=2",), ("regularization=[sam]",)], ids=" ".join)
def test_cuda_graphs_train_as_single_kernels_do(overrides):
    """Several steps, since a graph that wrote over what is still needed would show in the second."""
    weights = []
    for compiled in (False, True):
        state, loaders, step = parts("trainer.precision=fp32", *overrides)
        if compiled:
            state.model.compile(dynamic=False, mode="reduce-overhead")
        for epoch in range(3):
            for images, targets in loaders.train.epoch(epoch):
                step(state, images, targets)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in state.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_fp32_products_are_exact_unless_tf32_is_asked_for(precision):
    config = composed("trainer.device=cuda", f"trainer.precision={precision}")
    (machine, *_) = build.possible_machines(config)
    machine.precision.set_fp32_products()
    factors = torch.randn(2, 512, 512, device=CUDA)
    exact = factors[0].double() @ factors[1].double()
    error = ((factors[0] @ factors[1]).double() - exact).abs().max()
    coarse = precision == "tf32" and "tf32" in precisions(CUDA)
    assert (error > 1e-3) == coarse


def test_a_run_on_the_gpu_and_its_evaluation_on_the_processor(train):
    run = train("trainer.device=cuda", "trainer.precision=auto", "trainer.memory_format=auto")
    assert run.result["status"] == "finished"
    assert len(run.result["tried_images_per_second"]) == 2 * len(precisions(CUDA))
    found, images = rebuilt(run.checkpoint())
    figures = evaluate(found.model, images.test, precision=found.precision)
    assert figures.accuracy == pytest.approx(run.result["test_accuracy_last"], abs=0.05)  # of 100 images


def test_a_deterministic_run_that_goes_on_ends_bitwise_as_one_that_was_never_interrupted(train, monkeypatch, tmp_path):
    settings = ("trainer.device=cuda", "trainer.deterministic=true", "regularization=[dropout,mixup,ema,sam]")
    undisturbed, directory = train(*settings), tmp_path / "resumed"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(SystemExit):
            train(*settings, directory=directory)
    resumed = train(*settings, f"resume={directory}", directory=directory)
    weights = [run.checkpoint()["state"]["model"] for run in (undisturbed, resumed)]
    assert same(*weights)
    assert figures(resumed.metrics) == figures(undisturbed.metrics)
