"""The learning-rate range test."""

import math
import re
import shlex
import signal
from dataclasses import dataclass

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from engine.config.combinations import check_together
from engine.config.identity import difference
from engine.run.errors import CommandError
from engine.training import lr_find
from engine.training.state import TrainState
from tests.support.runs import composed


@dataclass
class Landscape:
    """In place of a training step: a loss that depends on the learning rate alone, which it notes."""

    loss: callable
    rates: list

    def __call__(self, state, images, targets):
        first, second = (group["lr"] for group in state.optimizer.param_groups)
        assert second == pytest.approx(first / 10)
        self.rates.append(first)
        state.totals += torch.tensor([4 * self.loss(first), 0, 4])


class Batches:
    """In place of a loader: epochs of three batches."""

    def __init__(self):
        self.epochs = []

    def epoch(self, number):
        self.epochs.append(number)
        yield from [(None, None)] * 3


def find(loss) -> tuple[list[float], list[float], Landscape, Batches]:
    """A range test on a landscape."""
    model = torch.nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    state = TrainState(
        model=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler("cpu"),
        totals=torch.zeros(3),
        finite_steps=torch.tensor(0),
    )
    landscape, batches = Landscape(loss, []), Batches()
    rates, losses = lr_find.range_test(state, batches, landscape, lr=0.5)
    return rates, losses, landscape, batches


def valley(lowest: float):
    """A loss of 2 that falls by 1.5 towards a learning rate and rises steeply behind it."""
    return lambda rate: 2 - 1.5 * math.exp(-(math.log10(rate / lowest) ** 2)) + 20 * max(math.log10(rate / lowest), 0)


@pytest.mark.parametrize("lowest", [1e-4, 1e-3, 0.03, 1])
def test_the_suggestion_lies_below_the_lowest_loss(lowest):
    rates, losses, _, _ = find(valley(lowest))
    assert rates[-1] < 10, "it diverges, and goes no further"
    suggestion = lr_find.suggested(rates, losses, lr_find.smoothed(losses))
    assert lowest / lr_find.BELOW / 2 < suggestion <= lowest / lr_find.BELOW * 1.1
    assert suggestion == float(f"{suggestion:.2g}")


def test_the_learning_rate_rises_by_the_same_factor():
    rates, losses, landscape, batches = find(lambda rate: 2.0)
    assert landscape.rates == pytest.approx(rates)
    assert (rates[0], rates[-1], len(rates)) == (pytest.approx(1e-6), pytest.approx(10), 350)
    assert rates[100] / rates[99] == pytest.approx(rates[1] / rates[0])
    assert losses == [2.0] * 350
    assert batches.epochs == list(range(117))


def test_a_loss_that_does_not_fall_suggests_nothing():
    rates, losses, _, _ = find(lambda rate: 2 + rate)
    assert lr_find.suggested(rates, losses, lr_find.smoothed(losses)) is None


def test_noise_suggests_nothing_and_hides_no_valley():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = (0.1 * torch.randn(350, generator=generator)).tolist()
        rates, losses, _, _ = find(lambda rate: 2.0)
        noisy = [loss + error for loss, error in zip(losses, noise, strict=True)]
        assert lr_find.suggested(rates, noisy, lr_find.smoothed(noisy)) is None
        rates, losses, _, _ = find(valley(0.01))
        noisy = [loss + error for loss, error in zip(losses, noise, strict=False)]
        assert 0.001 < lr_find.suggested(rates, noisy, lr_find.smoothed(noisy)) < 0.005


def test_a_loss_that_is_no_number_ends_the_test():
    rates, losses, _, _ = find(lambda rate: 1.0 if rate < 0.1 else math.nan)
    assert rates[-1] < 0.1
    assert all(map(math.isfinite, losses))


def test_a_batch_that_was_skipped_ends_the_test(monkeypatch):
    """With trainer.on_nonfinite=skip nothing is counted of it, which is not a loss of 0."""
    counted = Landscape.__call__
    monkeypatch.setattr(Landscape, "__call__", lambda *given: None if len(given[0].rates) == 100 else counted(*given))
    rates, losses, landscape, _ = find(lambda rate: 2.0)
    assert len(rates) == len(landscape.rates) == 100
    assert losses == [2.0] * 100


def test_smoothing_keeps_a_straight_line_and_quiets_noise():
    line = [0.1 * step for step in range(100)]
    assert lr_find.smoothed(line)[30:70] == pytest.approx(line[30:70])
    noise = [1 + (-1) ** step for step in range(100)]
    assert lr_find.smoothed(noise)[30:70] == pytest.approx([1.0] * 40, abs=1e-3)


def test_without_a_single_loss_there_is_no_suggestion(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(lr_find, "range_test", lambda *_, **__: ([], []))
    lr_find.suggest(None, None, None, lr=0.1, run=None, words=[])
    assert "no suggestion: the loss is NaN or inf from the start" in caplog.text


def test_it_trains_nothing_that_is_kept(train, caplog):
    caplog.set_level("INFO")
    run = train("lr_find=true", "optimizer=adamw", "++optimizer.lr=0.5", "regularization=[]", "dataset.classes=10")
    assert {path.name for path in run.directory.path.iterdir()} == {".lock", "lr_find.png"}
    with Image.open(run.directory.range_test) as picture:
        assert picture.width > picture.height > 500
    assert "loss by learning rate, smoothed" in caplog.text
    assert "epoch 1/" not in caplog.text
    suggestion = float(re.search(r"suggestion: (\S+),", caplog.text)[1])
    assert 1e-4 < suggestion < 1e-1
    program, script, *words = shlex.split(re.search(r"to train with it: (.+)", caplog.text)[1])
    assert (program, script) == ("python", "train.py")
    assert words[-1] == f"optimizer.lr={suggestion:g}"
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(words)]
    assert keys.count("optimizer.lr") == 1
    assert "lr_find" not in keys
    assert composed(*words).regularization == {}


def test_it_does_not_go_on_with_a_run():
    with pytest.raises(CommandError, match="lr_find=true: cannot be combined with resume="):
        check_together(composed("lr_find=true", "resume=run"))


def test_a_run_from_before_there_was_a_range_test_can_be_resumed():
    assert difference({"seed": 0}, {"seed": 0, "lr_find": False}) is None


def test_interrupted_it_leaves_nothing(train, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("engine.training.lr_find.range_test", interrupted)
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    with pytest.raises(SystemExit) as exit_:
        train("lr_find=true", directory=tmp_path / "run")
    assert exit_.value.code == 130
    assert not (tmp_path / "run").exists()
