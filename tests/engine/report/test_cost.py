"""What networks cost: counts beside those by hand and by other means, and measuring with a clock that is known."""

import json
import math
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo import config
from torch._dynamo.utils import counters

import evaluate
from data.loader import Normalize
from engine.build import objects
from engine.build.from_checkpoint import Trained
from engine.device.amp import Precision
from engine.device.flops import PeakMemory, count_activations, count_multiply_adds
from engine.evaluation.tta import as_it_is
from engine.report import cost
from engine.report.cost import CompilationFailed, best_batches, costs, interleaved_timings, network_cost, timed_call
from tests.support.runs import composed

CPU, SHAPE = torch.device("cpu"), torch.Size((3, 32, 32))
SPEED = cost.Speed(latency=0.001, latency_90=0.002, images_per_second=5000.0, batch=8)


def trained(model: str | nn.Module = "lenet5", precision: str = "fp32") -> Trained:
    """A network that could be out of a checkpoint."""
    if isinstance(model, str):
        group = objects.plain(composed(f"model={model}").model)
        model = objects.network(group, num_classes=10, in_channels=3)
    normalize = Normalize([0.5] * 3, [0.25] * 3, CPU, torch.channels_last)
    return Trained(
        model, "model", [str(name) for name in range(10)], SHAPE, normalize, Precision(precision, CPU), as_it_is, "none"
    )


@pytest.fixture
def quick(monkeypatch):
    """Measure no longer than it takes to see that it is measure_speeds."""
    for name, value in {"TURNS": 1, "FEW_TURNS": 1, "SECONDS": 0.0, "MOST": 4}.items():
        monkeypatch.setattr(cost, name, value)


def test_lenet_by_hand():
    """5x5 to 6 maps of 28x28, 5x5 to 16 of 10x10, 120, 84, 10."""
    found = network_cost(trained(), SPEED, None)
    convolutions = [(6, 28, 3 * 5 * 5), (16, 10, 6 * 5 * 5)]
    linear = [(400, 120), (120, 84), (84, 10)]
    assert found.activations == sum(maps * side**2 for maps, side, _ in convolutions) + 120 + 84 + 10 == 6_518
    multiply_adds = sum(maps * side**2 * inputs for maps, side, inputs in convolutions)
    assert found.multiply_adds == multiply_adds + sum(a * b for a, b in linear) == 651_720
    weights = sum(maps * (inputs + 1) for maps, _, inputs in convolutions) + sum((a + 1) * b for a, b in linear)
    assert found.parameters == weights == 62_006
    assert found.weight_bytes == 4 * weights
    # At once: the image, what the first convolution made of it, and that behind the ReLU.
    assert found.peak_bytes == 4 * (3 * 32 * 32 + 2 * 6 * 28 * 28)


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "cbam_resnet20", "mobilenet_v3_small", "airbench94"])
def test_activations_beside_those_that_hooks_see(name):
    """As modules put them out, rather than operators."""
    model, seen = trained(name).model, []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda *passed: seen.append(passed[-1].numel()))
    found = count_activations(model, SHAPE)
    assert found == sum(seen) > 0
    assert model.training, "it is left as it was"


def test_a_compiled_call_is_counted_as_it_is():
    model = trained("lenet5").model
    model.compile(backend=lambda *_: pytest.fail("the compiler was asked"))
    assert (count_multiply_adds(model, SHAPE), count_activations(model, SHAPE)) == (651_720, 6_518)


def test_the_most_bytes_that_were_there_at_once():
    known = torch.zeros(1000)
    with PeakMemory([known]) as alive:
        a = torch.zeros(100)
        b = a + 1
        del a
        c = b.view(10, 10).t()  # the same memory
        known.mul_(2)
        assert alive.peak == 4 * 200
        d = torch.zeros(60, dtype=torch.float64)
        assert alive.peak == 4 * 100 + 8 * 60
        e = torch.zeros(50)
        assert alive.peak == 4 * 100 + 8 * 60 + 4 * 50
    assert (c.shape, len(d), len(e)) == ((10, 10), 60, 50)


def test_measuring_in_turns(monkeypatch):
    """What comes first takes longer, and is not in the figures."""
    monkeypatch.setattr(cost, "SECONDS", 1.0)
    order = []

    def call(name: str, seconds: float):
        def work() -> float:
            order.append(name)
            is_first = len(order) == 1 or order[-2] != name
            return 100.0 if is_first else seconds

        return work

    found = interleaved_timings({"a": call("a", 0.25), "b": call("b", 3.0)}, turns=3)
    assert found == {"a": [0.25] * 4 * 3, "b": [3.0] * 2 * 3}
    assert "".join(order) == ("a" * 5 + "b" * 3) * 4


@pytest.mark.parametrize(
    ("speed", "best", "most"),
    [
        (lambda size: 5, 1, 4),
        (lambda size: min(size, 8), 8, 32),
        (lambda size: 1.02 ** math.log2(size), 1, 4),
        (lambda size: 1.04 ** math.log2(size), 65_536, 65_536),  # in two doublings a gain each time
        (lambda size: {1: 1, 2: 1, 4: 3, 8: 2, 16: 2}[size], 4, 16),
        (lambda size: size if size < 64 else 1e-300, 32, 128),  # what has no memory takes for ever
        (lambda size: size, 65_536, 65_536),
    ],
)
def test_batches_are_doubled_as_long_as_it_is_a_gain(speed, best, most, monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    asked = Counter()

    def calls(size: int):
        asked[size] += 1
        return lambda: size / speed(size)

    other = best_batches({"it": calls, "another": lambda size: lambda: 1.0 * size})
    assert other == {"it": best, "another": 1}
    assert max(asked) == most
    assert set(asked.values()) == {1}


def test_the_clock_sees_what_a_network_takes(monkeypatch):
    now = 5.0
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now)

    class Slow(nn.Module):
        def forward(self, images):
            nonlocal now
            now += 0.03
            return images.mean((1, 2, 3))

    assert timed_call(trained(Slow()), Slow(), 1)() == pytest.approx(0.03)


def test_what_does_not_fit_takes_for_ever():
    class Greedy(nn.Module):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert timed_call(trained(Greedy()), Greedy(), 1)() == math.inf


def test_the_table(quick):
    networks = {"runs/a": trained("lenet5"), "runs/b": trained("lenet5", "bf16")}
    part = costs(networks, compiled=False)
    content = json.loads(json.dumps(part.content, allow_nan=False))
    (section,) = part.sections
    title, *rows = section.rows
    assert [row[:5] for row in rows] == [
        ("runs/a", "fp32", "62,006", "651,720", "6,518"),
        ("runs/b", "bf16", "62,006", "651,720", "6,518"),
    ]
    assert {len(row) for row in section.rows} == {11}
    for row in rows:
        its = content["networks"][row[0]]
        assert its["compiled"] is None
        assert row[title.index("latency, ms")] == f"{1000 * its['speed']['latency']:.3f}"
        assert its["speed"]["latency_90"] >= its["speed"]["latency"] > 0
        assert its["speed"]["batch"] in (1, 2, 4)
        assert any(line.startswith(row[0]) for line in part.lines)


def test_a_compiled_network_has_a_row_of_its_own(quick, monkeypatch):
    asked = []

    def compile_(model, **options):
        asked.append(options)
        return nn.Sequential(model, nn.Identity())

    monkeypatch.setattr(torch, "compile", compile_)
    part = costs({"a": trained(), "b": trained()}, compiled=True)
    assert [row[0] for row in part.sections[0].rows[1:]] == ["a", "a, compiled", "b", "b, compiled"]
    assert asked == [{"dynamic": False, "mode": "default"}] * 2
    for its in part.content["networks"].values():
        assert its["compiled"]["batch"] == its["speed"]["batch"]


def test_a_compiler_that_fails_is_answered_in_one_line(quick, monkeypatch):
    def broken(model, **_):
        def run(images):
            raise RuntimeError("\nno compiler\nand more")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CompilationFailed, match=r"^cost_compile=true: no compiler$"):
        costs({"a": trained()}, compiled=True)


@pytest.mark.slow
def test_more_networks_of_a_class_are_compiled_than_torch_allows(quick, monkeypatch):
    """By itself it would compile eight times, and then run the others as they are."""
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(cost, "best_batches", lambda callers: dict.fromkeys(callers, 2))
    group = objects.plain(composed("model=lenet5").model)
    networks = [objects.network(group, num_classes=classes, in_channels=3) for classes in range(10, 15)]
    with config.patch(recompile_limit=8):
        costs({str(number): trained(network) for number, network in enumerate(networks)}, compiled=True)
    assert counters["frames"] == {"total": 10, "ok": 10}


def test_the_program_shows_what_runs_cost(finished, quick, caplog):
    caplog.set_level("INFO")
    run = finished.directory
    evaluate.main(composed(f"checkpoint=[{run.best},{run.last}]", "cost=true", "device=cpu", config_name="evaluate"))
    content = json.loads((run.path / "evaluation.json").read_text())["cost"]
    assert list(content["networks"]) == ["best.pt", "last.pt"]
    for its in content["networks"].values():
        assert its["activations"] == 6_518
    assert "activations: outputs of convolutions and linear layers" in caplog.text
    assert "<h2>Cost</h2>" in (run.path / "report.html").read_text()
