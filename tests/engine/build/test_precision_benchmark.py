"""Precision and memory format that are tried out: what is chosen, and that a run keeps to it."""

import dataclasses
import itertools
import math
from typing import ClassVar

import pytest
import torch

from engine.build import autotune, from_checkpoint, objects, precision_benchmark
from engine.device.amp import Precision, choose_precision, precisions
from engine.device.cuda_graphs import WARM_UP, discard_log
from engine.device.device import Backend, backends
from engine.run.errors import DeviceError
from tests.support.runs import composed
from tests.support.steps import tiny_splits

CPU = torch.device("cpu")
AUTO = ("trainer.precision=auto", "trainer.memory_format=auto")
WAYS = [
    Backend(CPU, Precision(name, CPU), order) for name in ("bf16", "fp32") for order in ("channels_last", "contiguous")
]


@pytest.fixture
def trials(monkeypatch):
    """What is tried out, in place of a measurement; by default the last is by far the fastest."""
    asked = []

    def benchmark_backends(ways, *_, **__):
        asked.append(list(ways))
        return {way: 100.0 * 2**place for place, way in enumerate(ways)}

    monkeypatch.setattr("engine.build.autotune.benchmark_backends", benchmark_backends)
    monkeypatch.setattr("engine.build.autotune.MEASURED", {})
    return asked


def weights(run) -> torch.Tensor:
    """All numbers of a run's network."""
    return torch.cat([value.flatten().double() for value in run.checkpoint()["state"]["model"].values()])


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((100, 50, 109, 20), 0),
        ((100, 50, 111, 20), 2),
        ((100, 130, 120, 20), 1),
        ((500, 480, 886, 890), 2),
        ((0, 0, 1, 0), 2),
        ((0, 0, 0, 0), 0),
    ],
)
def test_in_doubt_the_first_is_chosen(speeds, chosen):
    assert precision_benchmark.choose_fastest(dict(zip(WAYS, speeds, strict=True))) is WAYS[chosen]


def a_state(*overrides: str):
    """LeNet-5 with its step, on images of 32x32."""
    config = composed("model=lenet5", "trainer.device=cpu", *overrides)
    return objects.state(config, tiny_splits(), WAYS[1]), objects.train_step(config, WAYS[1])


def passes_on_a_processor(monkeypatch, seconds, *, batch_size: int = 64):
    """The speeds that are found where a pass takes seconds(precision, order, images), and all passes: (way, images).

    The first of them are of the first way alone, to see how many images they shall have.
    """
    (state, step), clock, passes = a_state(), [0.0], []

    def add_gradients(self, state, images, targets):
        order = "channels_last" if images.is_contiguous(memory_format=torch.channels_last) else "contiguous"
        passes.append((f"{self.precision.name} {order}", len(images)))
        clock[0] += seconds(self.precision.name, order, len(images))

    monkeypatch.setattr("engine.training.step.TrainStep.add_gradients", add_gradients)
    monkeypatch.setattr("engine.build.precision_benchmark.time.perf_counter", lambda: clock[0])
    speeds = precision_benchmark.benchmark_backends(WAYS, state, step, image_shape=(3, 32, 32), batch_size=batch_size)
    return {str(way): speed for way, speed in speeds.items()}, passes


def test_what_is_done_to_weights_weighs_less_in_a_whole_batch(monkeypatch):
    """As in VGG-16, where bf16 is slower with 8 images and twice as fast with 128."""

    def seconds(precision, order, images):
        return 0.06 + 0.004 * images if precision == "bf16" else 0.01 + 0.008 * images

    speeds, passes = passes_on_a_processor(monkeypatch, seconds, batch_size=128)
    assert {images for _, images in passes} == {2, 8}
    assert list(speeds.values()) == pytest.approx([128 / 0.572] * 2 + [128 / 1.034] * 2)
    assert seconds("bf16", "", 8) > seconds("fp32", "", 8)


def test_the_shortest_of_some_rounds_counts_and_what_is_hopeless_is_tried_twice(monkeypatch):
    factors = {
        "bf16 channels_last": itertools.chain([5.0, 3.0, 1.5], itertools.repeat(2.0)),
        "bf16 contiguous": itertools.repeat(6.5),
        "fp32 channels_last": itertools.chain([9.0, 9.0], itertools.repeat(2.2)),
        "fp32 contiguous": itertools.chain([1.0], itertools.repeat(20.0)),
    }
    factor = {}

    def seconds(precision, order, images):
        way = f"{precision} {order}"
        if images == 2:  # the first of each round
            factor[way] = next(factors[way])
        return 0.01 * images * factor[way]

    factors["bf16 channels_last"] = itertools.chain([1.0], factors["bf16 channels_last"])  # to see on how many
    speeds, passes = passes_on_a_processor(monkeypatch, seconds)
    assert list(speeds.values()) == pytest.approx([100 / 1.5, 100 / 6.5, 100 / 2.2, 100 / 20])
    counts = [passes.count((way, 8)) for way in factors]
    assert counts == [1 + 1 + precision_benchmark.ROUNDS, 1 + 2, 1 + precision_benchmark.ROUNDS, 1 + 2]


def test_short_passes_are_measured_until_they_come_to_something(monkeypatch):
    _, passes = passes_on_a_processor(monkeypatch, lambda precision, order, images: 0.0001 * images)
    assert max(images for _, images in passes) == 32
    rounds = len(passes[3 + 2 * len(WAYS) :]) / (2 * len(WAYS))  # but for those before
    assert rounds == pytest.approx(precision_benchmark.ENOUGH / (0.0001 * (8 + 32) * len(WAYS)), abs=1)


@pytest.mark.parametrize(
    ("seconds", "speed"),
    [
        ({8: 0.1, 32: 0.2}, 128 / 0.6),
        ({8: 0.3, 32: 0.2}, 128 / 0.35),  # noise: more images do not take less time
        ({8: 0.01, 32: 0.2}, 160),  # noise: nor each of them more than the others
        ({2: 0.1}, 20),
        ({8: 0.1, 32: math.inf}, 0),
        ({8: math.inf, 32: math.inf}, 0),
    ],
)
def test_the_speed_of_a_whole_batch_from_two_smaller_ones(seconds, speed):
    assert precision_benchmark.extrapolated(seconds, 128) == pytest.approx(speed)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_every_way_is_measured_and_no_weight_moves(batch_size):
    state, step = a_state()
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    speeds = precision_benchmark.benchmark_backends(WAYS, state, step, image_shape=(3, 32, 32), batch_size=batch_size)
    assert list(speeds) == WAYS
    assert all(0 < speed < math.inf for speed in speeds.values())
    for parameter, value in zip(state.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is None


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_not_chosen(monkeypatch):
    state, step = a_state()
    sizes = []

    def add_gradients(self, state, images, targets):
        sizes.append(len(images))
        if self.precision.name == "bf16":
            raise RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory")
        if broken:
            raise RuntimeError("another mistake")
        return torch.zeros(3)

    monkeypatch.setattr("engine.training.step.TrainStep.add_gradients", add_gradients)
    broken = False
    speeds = precision_benchmark.benchmark_backends(WAYS, state, step, image_shape=(3, 32, 32), batch_size=64)
    assert [speed > 0 for speed in speeds.values()] == [False, False, True, True]
    assert max(sizes) == precision_benchmark.FEWEST  # no more images where the first has no room for so many
    assert list(
        precision_benchmark.benchmark_backends(WAYS[:2], state, step, image_shape=(3, 32, 32), batch_size=64).values()
    ) == [0, 0]
    broken = True
    with pytest.raises(RuntimeError, match="another mistake"):
        precision_benchmark.benchmark_backends(WAYS, state, step, image_shape=(3, 32, 32), batch_size=64)


class Recorder:
    """In place of CudaGraphs: a pass costs less from the one on that is recorded, which itself costs more."""

    made: ClassVar[list["Recorder"]] = []
    factor = 1.0

    def __init__(self, log=None):
        self.passes, self.log = 0, log
        Recorder.made.append(self)

    def __call__(self, backend, model, images, targets):
        self.passes += 1
        Recorder.factor = 1.0 if self.passes <= WARM_UP else 9.0 if self.passes == WARM_UP + 1 else 0.25
        return backend(images, targets)


def measured_on_a_gpu(monkeypatch, seconds: dict[str, float], *, recorded: bool) -> tuple[list[float], list[str]]:
    """What sequential finds of passes that take so long by precision, and the precisions of the passes."""
    (state, step), clock, passes = a_state(), [0.0], []
    Recorder.made, Recorder.factor = [], 1.0

    def add_gradients(self, state, images, targets):
        passes.append(self.precision.name)
        if seconds[self.precision.name] == math.inf:
            raise torch.OutOfMemoryError("no")
        clock[0] += seconds[self.precision.name] * Recorder.factor

    monkeypatch.setattr("engine.build.precision_benchmark.CudaGraphs", Recorder)
    monkeypatch.setattr("engine.training.step.TrainStep.add_gradients", add_gradients)
    monkeypatch.setattr("engine.build.precision_benchmark.time.perf_counter", lambda: clock[0])
    step = dataclasses.replace(step, graphs=Recorder() if recorded else None)
    benchmark = precision_benchmark.Benchmark(state, step, torch.randn(8, 3, 32, 32), torch.zeros(8).long())
    return list(precision_benchmark.sequential(WAYS, benchmark).values()), passes


def test_on_a_gpu_whole_batches_count_and_what_is_hopeless_or_does_not_fit_is_left_at_that(monkeypatch):
    speeds, passes = measured_on_a_gpu(monkeypatch, {"bf16": 0.5, "fp32": 1.0}, recorded=False)
    assert speeds == pytest.approx([16, 16, 8, 8])
    assert passes.count("fp32") == 2 * WARM_UP
    assert passes.count("bf16") == 2 * (WARM_UP + 1 + precision_benchmark.ROUNDS)
    assert not Recorder.made
    speeds, passes = measured_on_a_gpu(monkeypatch, {"bf16": math.inf, "fp32": 1.0}, recorded=False)
    assert speeds == [0, 0, 8, 8]
    assert passes.count("bf16") == 2


def test_on_a_gpu_what_counts_are_passes_that_are_replayed_where_training_replays_them(monkeypatch):
    speeds, _ = measured_on_a_gpu(monkeypatch, {"bf16": 1.25, "fp32": 1.0}, recorded=True)
    assert speeds == pytest.approx([25.6, 25.6, 32, 32])
    assert len(Recorder.made) == 1 + len(WAYS)  # that of training, and one for each way
    assert all(recorder.log is discard_log for recorder in Recorder.made[1:])
    speeds, _ = measured_on_a_gpu(monkeypatch, {"bf16": 1.0, "fp32": 2.0}, recorded=True)
    assert speeds == pytest.approx([32, 32, 4, 4])


def test_a_step_that_takes_long_is_tried_on_few_images_and_none_on_more_than_half_a_batch(monkeypatch):
    speeds, passes = passes_on_a_processor(monkeypatch, lambda precision, order, images: 0.02 * images)
    assert max(images for _, images in passes) == 8
    assert list(speeds.values()) == pytest.approx([50] * 4)
    _, passes = passes_on_a_processor(monkeypatch, lambda precision, order, images: 0.02 * images, batch_size=11)
    assert max(images for _, images in passes) == 5


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
def test_what_fp32_products_are_made_of_can_be_read_by_torch(name):
    """torch.export, torch.compile and others set cuDNN's flags for a while, which needs flags that agree."""
    Precision(name, CPU).set_fp32_products()
    with torch.backends.cudnn.flags(enabled=False):
        pass
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (name != "fp32")


def test_what_the_processor_can():
    assert precisions(CPU)[-1] == "fp32"
    assert len(backends(CPU, precision="auto", memory_format="auto")) == 2 * len(precisions(CPU))
    assert [str(way) for way in backends(CPU, precision="bf16", memory_format="contiguous")] == ["bf16 contiguous"]
    for name in ("fp16", "tf32"):
        with pytest.raises(DeviceError, match=f"trainer.precision={name} needs a GPU"):
            choose_precision(name, CPU)


def test_a_run_takes_the_fastest_says_so_and_is_the_run_that_asks_for_it(train, trials, caplog):
    with caplog.at_level("INFO"):
        tried = train(*AUTO)
    (ways,) = trials
    assert "autotune chose fp32 contiguous with " in caplog.text
    assert (tried.result["precision"], tried.result["memory_format"]) == ("fp32", "contiguous")
    assert list(tried.result["tried_images_per_second"]) == [str(way) for way in ways]
    asked_for = train("trainer.precision=fp32", "trainer.memory_format=contiguous")
    assert len(trials) == 1
    assert asked_for.result["tried_images_per_second"] == {}
    assert torch.equal(weights(tried), weights(asked_for))


@pytest.fixture
def no_trial(monkeypatch):
    """From when it is called on, nothing may be tried out."""

    def forbid():
        monkeypatch.setattr("engine.build.autotune.MEASURED", {})
        monkeypatch.setattr("engine.build.autotune.benchmark_backends", None)

    return forbid


def test_a_resumed_run_computes_as_it_did(train, trials, no_trial):
    run = train(*AUTO, "trainer.max_epochs=1", "scheduler=constant")
    no_trial()
    resumed = train(*AUTO, "resume=x", "scheduler=constant", "resume_force=true", directory=run.directory.path)
    assert (resumed.result["precision"], resumed.result["memory_format"]) == ("fp32", "contiguous")
    assert resumed.result["epochs"] == 2


def test_a_resumed_run_computes_in_another_way_if_it_is_forced_to(train, trials):
    run = train(*AUTO, "trainer.max_epochs=1", "scheduler=constant")
    settings = ("resume=x", "scheduler=constant", "resume_force=true", "trainer.memory_format=auto")
    resumed = train(*settings, "trainer.precision=bf16", directory=run.directory.path)
    assert (resumed.result["precision"], resumed.result["memory_format"]) == ("bf16", "contiguous")


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_what_a_mac_lacks_is_fp32_there(precision, monkeypatch):
    monkeypatch.setattr(autotune, "choose_device", lambda _: torch.device("mps"))
    record = {"precision": precision, "memory_format": "contiguous"}
    record["config"] = {"trainer": {"precision": "auto", "memory_format": "auto"}}
    (way,) = autotune.possible_backends(composed(), record)
    assert way.precision.name == ("fp32" if precision == "tf32" else "fp16")


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_run_from_a_gpu_goes_on_upon_a_processor_in_fp32(precision):
    """Also a second time: what it then has on record is fp32."""
    config = composed("trainer.device=cpu", f"trainer.precision={precision}", "trainer.memory_format=contiguous")
    for recorded in (precision, "fp32"):
        record = {"precision": recorded, "memory_format": "contiguous", "config": objects.plain(config)}
        assert [str(way) for way in autotune.possible_backends(config, record)] == ["fp32 contiguous"]


def test_evaluation_computes_as_training_did(train, trials, no_trial):
    checkpoint = train(*AUTO).checkpoint()
    no_trial()
    found = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu")
    assert found.precision.name == "fp32"
    assert found.normalize.memory_format == torch.contiguous_format


def test_evaluation_tries_nothing_whatever_the_checkpoint_says(train, trials, no_trial):
    """A trial would build the optimizer, which a checkpoint from elsewhere must not choose."""
    checkpoint = train(*AUTO).checkpoint() | {"precision": "auto", "memory_format": "auto"}
    checkpoint["config"]["optimizer"]["_target_"] = "os.system"
    no_trial()
    found = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu")
    assert found.precision.name == precisions(CPU)[0]


def test_a_deterministic_run_tries_nothing(train, trials):
    run = train(*AUTO, "trainer.deterministic=true")
    assert not trials
    assert (run.result["precision"], run.result["memory_format"]) == (precisions(CPU)[0], "channels_last")


def test_seeds_of_one_process_choose_alike(train, trials):
    for seed in (0, 1):
        train(*AUTO, f"seed={seed}", "trainer.max_epochs=1")
    assert len(trials) == 1
    train(*AUTO, "trainer.batch_size=16", "trainer.max_epochs=1")
    assert len(trials) == 2


def test_parts_of_a_batch_are_tried_as_large_as_they_are(train, trials, monkeypatch):
    sizes = []

    def benchmark_backends(ways, *_, batch_size, **__):
        sizes.append(batch_size)
        return dict.fromkeys(ways, 1.0)

    monkeypatch.setattr("engine.build.autotune.benchmark_backends", benchmark_backends)
    train(*AUTO, "trainer.gradient_accumulation=3", "trainer.max_epochs=1")
    assert sizes == [11]
