"""What only a GPU can show; skipped where there is none that torch can use."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from engine.build import autotune, objects
from engine.build.batch_size import fits
from engine.build.objects import Loaders
from engine.device.amp import precisions
from engine.device.compile import compile_network
from engine.device.cuda_graphs import WARM_UP, CudaGraphs
from engine.evaluation.evaluate import evaluate
from engine.training.state import TrainState
from engine.training.step import TrainStep, scale_learning_rate
from tests.support.networks import FAMILIES
from tests.support.runs import composed, figures, interrupt_after, option_names, rebuilt, same
from tests.support.steps import IN_THE_LAST_EPOCH, tiny_splits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
CUDA = torch.device("cuda")
EPOCHS = range(WARM_UP + 1)  # in which every shape of batch, also what is left over, is computed as usual and recorded


def parts(*overrides: str) -> tuple[TrainState, Loaders, TrainStep]:
    """A small run on the GPU: state, batches, step."""
    model = () if any(override.startswith("model=") for override in overrides) else ("model=resnet20",)
    config = composed("trainer.batch_size=8", "trainer.device=cuda", *model, *overrides)
    backend, splits = autotune.possible_backends(config)[0], tiny_splits()
    autotune.set_up(config, backend)
    state, loaders = objects.state(config, splits, backend), objects.loaders(config, splits, backend)
    state.model.train()
    if config.trainer.compile:
        compile_network(state.model)
    return state, loaders, objects.train_step(config, backend)


def train_until_recorded(state: TrainState, loaders: Loaders, step: TrainStep) -> tuple[Tensor, Tensor]:
    """Train for EPOCHS; the last batch."""
    for epoch in EPOCHS:
        for images, targets in loaders.train.epoch(epoch):
            step(state, images, targets)
    return images, targets


def flat(model: nn.Module) -> Tensor:
    """All weights and running statistics in one vector."""
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within, whatever waits for the GPU is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode does not notice all of it
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "overrides",
    [
        *[(f"regularization=[{option}]",) for option in option_names("regularization")],
        *[(f"optimizer={option}",) for option in option_names("optimizer")],
        *[(f"trainer.precision={name}",) for name in ("fp32", "tf32", "bf16", "fp16")],
        ("trainer.compile=true", "trainer.precision=bf16"),
        ("trainer.gradient_accumulation=2",),
        ("trainer.cuda_graphs=false",),
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_gpu(overrides):
    """From the second batch on: what an epoch draws is sent to the GPU with its first.

    In fp16 this is so of fused optimizers alone: torch asks before it lets another one take a step.
    """
    state, loaders, step = parts(*overrides)
    train_until_recorded(state, loaders, step)  # what is made once is made here
    assert (step.graphs is None) == ("trainer.cuda_graphs=false" in overrides)
    assert step.graphs is None or step.graphs.enabled
    batches = loaders.train.epoch(len(EPOCHS))
    step(state, *next(batches))
    with no_waiting():
        for images, targets in batches:
            scale_learning_rate(state.optimizer, 1.0)
            step(state, images, targets)
            for average in state.averages.values():
                average.update(state.model, epoch=IN_THE_LAST_EPOCH)
    assert state.totals.isfinite().all()


@pytest.mark.parametrize("option", option_names("regularization"))
def test_no_step_is_sent_anything_from_main_memory(option):
    """Neither images nor tables nor numbers, but what kernels are started with."""
    state, loaders, step = parts(f"regularization=[{option}]")
    train_until_recorded(state, loaders, step)
    batches = loaders.train.epoch(len(EPOCHS))
    step(state, *next(batches))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as kernels:  # without it some torch warns
        for images, targets in batches:
            step(state, images, targets)
            for average in state.averages.values():
                average.update(state.model, epoch=IN_THE_LAST_EPOCH)
        torch.cuda.synchronize()
    names = {event.key for event in kernels.key_averages()}
    assert len(names) > 5
    assert not {name for name in names if "HtoD" in name}


def waits(work: Callable[[], object]) -> int:
    """How often something waits for the GPU, as far as torch notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("tta", option_names("tta"))
def test_evaluation_waits_for_the_gpu_only_at_its_end(tta):
    """As often for many batches as for one."""
    found = []
    for batch_size in (5, 1000):
        given = f"trainer.eval_batch_size={batch_size}", f"tta={tta}"
        config = composed("model=resnet20", "trainer.device=cuda", *given)
        backend, splits = autotune.possible_backends(config)[0], tiny_splits()
        state, loaders = objects.state(config, splits, backend), objects.loaders(config, splits, backend)
        work = partial(
            evaluate, state.model, loaders.test, precision=backend.precision, views=objects.instantiate(config.tta)
        )
        work()
        found.append(waits(work))
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_steps_of_every_family_are_recorded(name):
    state, loaders, step = parts(f"model={name}", *FAMILIES[name])
    scale_learning_rate(state.optimizer, 0.0)
    train_until_recorded(state, loaders, step)
    assert step.graphs.enabled
    assert len(step.graphs.captured) == 2
    assert state.totals.isfinite().all()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("trainer.precision=bf16",),
        ("trainer.precision=fp16",),
        ("trainer.gradient_accumulation=2",),
        ("regularization=[sam]",),
        ("regularization=[weight_decay,dropout,drop_path,gradient_clipping]",),
        ("regularization=[mixup,cutmix,ema]", "optimizer=adamw"),
        ("model=shake_shake26_2x32d", "trainer.on_nonfinite=skip"),
    ],
    ids=" ".join,
)
def test_recorded_steps_are_bitwise_what_they_are_without(overrides):
    """Several, since a recording that wrote over what is still needed would show in the second."""
    weights, totals = [], []
    for graphs in ("false", "true"):
        settings = "trainer.deterministic=true", f"trainer.cuda_graphs={graphs}"
        state, loaders, step = parts("trainer.precision=fp32", *settings, *overrides)
        train_until_recorded(state, loaders, step)
        for images, targets in loaders.train.epoch(len(EPOCHS)):
            step(state, images, targets)
        weights.append(flat(state.model))
        totals.append(state.totals)
    assert step.graphs.enabled
    assert len(step.graphs.captured) == 2  # whole batches, and what is left over
    assert torch.equal(*weights)
    assert torch.equal(*totals)


def test_a_compiled_network_is_recorded_and_has_the_gradients_of_any_other():
    """At the initial weights: some steps on, roundings have grown."""
    found = []
    for compiled in ("false", "true"):
        state, loaders, step = parts("trainer.precision=fp32", f"trainer.compile={compiled}")
        scale_learning_rate(state.optimizer, 0.0)
        train_until_recorded(state, loaders, step)
        assert step.graphs.enabled
        assert len(step.graphs.captured) == 2
        gradient = torch.cat([parameter.grad.flatten() for parameter in state.model.parameters()])
        statistics = [buffer.flatten() for buffer in state.model.buffers() if buffer.is_floating_point()]
        found.append((gradient, torch.cat(statistics)))
    for usual, of_compiled in zip(*found, strict=True):
        assert (usual - of_compiled).norm() < 1e-2 * usual.norm()  # 1.2e-3 on a processor


def test_activations_computed_again_cannot_be_recorded_and_train_all_the_same(caplog):
    """Checkpointing asks for the state of the random numbers, which waits for the GPU."""
    with caplog.at_level("INFO"):
        state, loaders, step = parts("model.gradient_checkpointing=true")
        train_until_recorded(state, loaders, step)
    assert caplog.text.count("CUDA graph capture failed") == 1
    assert state.totals.isfinite().all()


def test_where_the_memory_of_recordings_is_missed_they_are_given_up(caplog):
    """The batch in which that shows counts once, in gradients and in running statistics."""
    settings, tries, found = ("trainer.precision=fp32", "trainer.deterministic=true"), iter([True]), []
    for graphs in ("true", "false"):
        state, loaders, step = parts(*settings, f"trainer.cuda_graphs={graphs}")

        def gradients(images: Tensor, targets: Tensor, step=step, state=state) -> Tensor:
            result = step.add_gradients(state, images, targets)
            if step.graphs and next(tries, False):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return result

        with caplog.at_level("INFO"):
            images, targets = train_until_recorded(state, loaders, step)
            assert bool(step.graphs) == (graphs == "true")
            state.optimizer.zero_grad()
            if step.graphs:
                assert step.graphs.captured
                step.graphs(gradients, state.model, images[:3], targets[:3])
                assert not step.graphs.captured
            else:
                gradients(images[:3], targets[:3])
        gradient = torch.cat([parameter.grad.flatten() for parameter in state.model.parameters()])
        step(state, images, targets)
        found.append((gradient, flat(state.model)))
    for with_graphs, without in zip(*found, strict=True):
        assert torch.equal(with_graphs, without)
    assert caplog.text.count("out of memory") == 1


def test_a_recorded_batch_whose_loss_is_no_number_changes_nothing():
    """Asked in every step, which a recording survives."""
    state, loaders, step = parts("trainer.on_nonfinite=skip")
    train_until_recorded(state, loaders, step)
    before, skipped = flat(state.model), state.skipped
    images, targets = next(loaders.train.epoch(0))
    step(state, torch.full_like(images, torch.nan), targets)
    assert step.graphs.captured
    assert state.skipped == skipped + 1
    assert torch.equal(flat(state.model), before)


class Asking(nn.Module):
    """A network that asks the GPU something in its forward pass, which no recording can hold."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 2), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        return self.linear(x) if x.isfinite().all() else self.linear(-x)


def test_what_cannot_be_recorded_is_computed_as_usual_and_said_once(caplog):
    model, graphs = Asking().to(CUDA), CudaGraphs()

    def gradients(images: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        return loss.detach()

    with caplog.at_level("INFO"):
        for size in (3, 5):
            for _ in range(2 * WARM_UP):
                model.zero_grad()
                loss = graphs(
                    gradients, model, torch.randn(size, 4, device=CUDA), torch.zeros(size, device=CUDA).long()
                )
                assert loss.isfinite()
                assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert caplog.text.count("CUDA graph capture failed") == 1


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_fp32_products_are_exact_unless_tf32_is_asked_for(precision):
    config = composed("trainer.device=cuda", f"trainer.precision={precision}")
    (backend, *_) = autotune.possible_backends(config)
    backend.precision.set_fp32_products()
    factors = torch.randn(2, 512, 512, device=CUDA)
    exact = factors[0].double() @ factors[1].double()
    error = ((factors[0] @ factors[1]).double() - exact).abs().max()
    coarse = precision == "tf32" and "tf32" in precisions(CUDA)
    assert (error > 1e-3) == coarse


def test_a_run_on_the_gpu_and_its_evaluation_on_the_processor(train):
    run = train("trainer.device=cuda", "trainer.precision=auto", "trainer.memory_format=auto")
    assert run.result["status"] == "finished"
    assert len(run.result["tried_images_per_second"]) == 2 * len(precisions(CUDA))
    assert all(speed > 0 for speed in run.result["tried_images_per_second"].values())
    found, images = rebuilt(run.checkpoint())
    figures = evaluate(found.model, images.test, precision=found.precision)
    assert figures.loss == pytest.approx(run.result["test_loss_last"], rel=0.02)


def test_a_batch_that_fits_is_found(train, monkeypatch):
    """Tried on the GPU as well: of 64 images, with which an epoch has 32 steps, memory is made to have room for 32."""
    monkeypatch.setattr("engine.build.batch_size.fits", lambda *arguments: arguments[-1] <= 32 and fits(*arguments))
    run = train("trainer.device=cuda", "trainer.batch_size=auto", "dataset.train_size=3000", "trainer.max_epochs=1")
    assert run.result["batch_size"] == 32


def test_a_batch_for_which_there_is_no_memory_is_told_from_one_that_fits():
    config = composed("trainer.device=cuda", "model=resnet20", "trainer.batch_size=8")
    backend = autotune.possible_backends(config)[0]
    state, step = objects.state(config, tiny_splits(), backend), objects.train_step(config, backend)
    shape = torch.Size((3, 32, 32))
    assert fits(state, step, backend, shape, 64)
    in_memory = torch.cuda.get_device_properties(0).total_memory // (3 * 32 * 32 * 4)  # of the input alone
    assert not fits(state, step, backend, shape, in_memory)
    assert fits(state, step, backend, shape, 64)


def test_a_deterministic_run_that_goes_on_ends_bitwise_as_one_that_was_never_interrupted(train, monkeypatch, tmp_path):
    """Behind the interruption the first steps are computed as usual, where those of the other run are replayed."""
    settings = ("trainer.device=cuda", "trainer.deterministic=true", "regularization=[dropout,mixup,ema,sam]")
    settings += ("trainer.batch_size=8",)
    undisturbed, directory = train(*settings), tmp_path / "resumed"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 9)
        with pytest.raises(SystemExit):
            train(*settings, directory=directory)
    resumed = train(*settings, f"resume={directory}", directory=directory)
    weights = [run.checkpoint()["state"]["model"] for run in (undisturbed, resumed)]
    assert same(*weights)
    assert figures(resumed.metrics) == figures(undisturbed.metrics)
