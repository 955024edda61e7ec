"""Schedules at their corners, and beside torch's own."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedulers

from engine.config.schedule import make_schedule
from engine.run.errors import CommandError
from schedulers import as_epoch, metric_schedule
from schedulers.cosine import Cosine
from schedulers.cosine_restarts import CosineRestarts
from schedulers.exponential import Exponential
from schedulers.htd import HTD
from schedulers.multistep import Multistep
from schedulers.one_cycle import OneCycle
from schedulers.plateau import Plateau
from schedulers.polynomial import Polynomial
from schedulers.stable_decay import StableDecay
from schedulers.step import Step
from schedulers.swa import SWA
from schedulers.triangular import Triangular
from schedulers.warmup import Warmup
from tests.support.runs import composed, option_names


def scheduled(*overrides: str, max_epochs: int = 20):
    """The schedule that a command would get."""
    return make_schedule(composed(f"trainer.max_epochs={max_epochs}", *overrides))


def torch_factors(make, epochs: int) -> list[float]:
    """What a scheduler of torch makes of a learning rate of 1, epoch by epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(epochs):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


RUN = {"start": 0, "end": 20}
LIKE_TORCH = {
    "multistep": (
        Multistep(**RUN, milestones=[8, 15], gamma=0.1),
        lambda optimizer: torch_schedulers.MultiStepLR(optimizer, [8, 15], 0.1),
    ),
    "step": (Step(**RUN, every=3, gamma=0.5), lambda optimizer: torch_schedulers.StepLR(optimizer, 3, 0.5)),
    "step as a share": (
        Step(**RUN, every=0.3, gamma=0.5),
        lambda optimizer: torch_schedulers.StepLR(optimizer, 6, 0.5),
    ),
    "cosine": (
        Cosine(**RUN, final=0.01),
        lambda optimizer: torch_schedulers.CosineAnnealingLR(optimizer, 20, 0.01),
    ),
    "cosine_restarts": (
        CosineRestarts(**RUN, period=3, multiplier=2, final=0.01),
        lambda optimizer: torch_schedulers.CosineAnnealingWarmRestarts(optimizer, 3, 2, 0.01),
    ),
    "exponential": (
        Exponential(**RUN, final=0.01),
        lambda optimizer: torch_schedulers.ExponentialLR(optimizer, 0.01 ** (1 / 20)),
    ),
    "polynomial": (
        Polynomial(**RUN, power=2, final=0),
        lambda optimizer: torch_schedulers.PolynomialLR(optimizer, 20, 2),
    ),
    "linear": (
        Polynomial(**RUN, power=1, final=0.1),
        lambda optimizer: torch_schedulers.LinearLR(optimizer, 1, 0.1, 20),
    ),
    "one_cycle": (  # torch's last step is the end itself
        OneCycle(start=0, end=19, peak=6, initial=0.04, final=4e-6),
        lambda optimizer: torch_schedulers.OneCycleLR(optimizer, 1, 20, pct_start=7 / 20, cycle_momentum=False),
    ),
    "triangular": (
        Triangular(**RUN, cycles=2, rise=0.4, low=0.1),
        lambda optimizer: torch_schedulers.CyclicLR(optimizer, 0.1, 1.0, 4, 6, cycle_momentum=False),
    ),
}


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_equals_torch(name):
    ours, theirs = LIKE_TORCH[name]
    assert [ours(epoch) for epoch in range(20)] == pytest.approx(torch_factors(theirs, 20), abs=1e-12)


@cache
def of_twenty_epochs(name: str) -> Callable[[float], float]:
    """A schedule of conf/scheduler/."""
    return scheduled(f"scheduler={name}", max_epochs=20)


def test_cosine_behind_a_warmup_equals_torch():
    ours = scheduled("scheduler=cosine", "scheduler.warmup_epochs=5")

    def theirs(optimizer):
        ramp = torch_schedulers.LinearLR(optimizer, 1e-12, 1.0, total_iters=5)
        cosine = torch_schedulers.CosineAnnealingLR(optimizer, 15)
        return torch_schedulers.SequentialLR(optimizer, [ramp, cosine], [5])

    assert [ours(epoch) for epoch in range(20)] == pytest.approx(torch_factors(theirs, 20), abs=1e-9)


def test_multistep_at_its_milestones():
    schedule = Multistep(start=0, end=20, milestones=[10, 15], gamma=0.1)
    before = math.nextafter(10, 0)
    assert [schedule(epoch) for epoch in (0, before, 10, 14.99, 15, 20)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_milestone_below_one_is_a_share_of_the_run():
    assert Multistep(start=0, end=164, milestones=[0.5, 0.75], gamma=0.1).epochs == [82, 123]


@given(hundredths=st.integers(1, 99), hundreds=st.integers(1, 10))
@example(hundredths=55, hundreds=1)
def test_a_share_that_makes_whole_epochs_makes_them_exactly(hundredths, hundreds):
    """In floating point 0.55 * 100 is a little more than 55."""
    assert as_epoch(hundredths / 100, 100 * hundreds) == hundredths * hundreds


@pytest.mark.parametrize("milestones", [[10, 10], [15, 10], [0.9, 5]])
def test_milestones_must_ascend(milestones):
    with pytest.raises(ValueError, match="are not in ascending order"):
        Multistep(start=0, end=20, milestones=milestones, gamma=0.1)


def test_a_milestone_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="milestone 21 is after the last epoch, 20"):
        Multistep(start=0, end=20, milestones=[10, 21], gamma=0.1)


def test_cosine_at_its_ends():
    schedule = Cosine(start=0, end=20, final=0.1)
    assert [schedule(epoch) for epoch in (0, 10, 20, 25)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_htd_is_the_papers():
    """Eq. 3 with L=-6 and U=3: all but the full rate at first, half of it after two thirds of the way."""
    schedule = HTD(**RUN, lower=-6, upper=3)
    assert schedule(0) == pytest.approx(1, abs=1e-5)
    assert schedule(20 * 2 / 3) == pytest.approx(0.5)
    assert schedule(20) == pytest.approx((1 - math.tanh(3)) / 2)
    with pytest.raises(ValueError, match="lower=3 is not below upper=3"):
        HTD(**RUN, lower=3, upper=3)


def test_swa_falls_to_a_constant_before_averaging_begins():
    schedule = SWA(start=2, end=20, begin=0.6, final=0.2)
    assert [schedule(epoch) for epoch in (2, 7, 9, 11, 12, 20)] == pytest.approx([1, 1, 0.6, 0.2, 0.2, 0.2])
    for begin in (0.1, 21):
        with pytest.raises(ValueError, match=f"begin={begin} is not between epoch 2 and the last, 20"):
            SWA(start=2, end=20, begin=begin, final=0.2)


def test_stable_decay_falls_in_its_last_epochs():
    schedule = StableDecay(start=2, end=20, decay=0.2, final=0.1)
    assert [schedule(epoch) for epoch in (2, 10, 16, 18, 20)] == pytest.approx([1, 1, 1, 0.55, 0.1])
    with pytest.raises(ValueError, match="decay=19 is longer than the run after its warmup"):
        StableDecay(start=2, end=20, decay=19, final=0)


@pytest.mark.parametrize("peak", [2, 20, 30])
def test_the_peak_of_a_cycle_lies_within_the_run(peak):
    with pytest.raises(ValueError, match="is not between epoch 2 and the last, 20"):
        OneCycle(start=2, end=20, peak=peak, initial=0.1, final=0)


@pytest.mark.parametrize("name", option_names("scheduler"))
@given(epoch=st.floats(0, 20))
def test_a_schedule_stays_between_zero_and_the_full_rate(name, epoch):
    assert 0 <= of_twenty_epochs(name)(epoch) <= 1


@pytest.mark.parametrize(
    "name",
    sorted(
        set(option_names("scheduler"))
        - {"multistep", "multistep_wrn", "multistep_cifarzoo", "step", "inception", "cosine_restarts"}
    ),
)
@given(epoch=st.floats(0, 19.999))
def test_a_schedule_without_jumps_is_continuous(name, epoch):
    """No schedule of 20 epochs has a slope above 1 / 0.04 an epoch."""
    schedule = of_twenty_epochs(name)
    assert abs(schedule(epoch + 1e-3) - schedule(epoch)) < 0.025


@pytest.mark.parametrize(
    ("period", "epochs", "warmup_steps", "restart"), [("0.1", 3, 0, 117), ("0.1", 1, 0, 39), ("10", 60, 1000, 4900)]
)
def test_a_restart_is_where_it_should_be_in_floating_point(period, epochs, warmup_steps, restart):
    """Of 390 steps an epoch; the step before it has nearly nothing left, and it has everything."""
    config = composed(
        f"trainer.max_epochs={epochs}",
        "scheduler=cosine_restarts",
        f"scheduler.period={period}",
        *([f"scheduler.warmup_steps={warmup_steps}"] if warmup_steps else []),
    )
    schedule = make_schedule(config, steps_per_epoch=390)
    assert schedule((restart - 1) / 390) < 0.01
    assert schedule(restart / 390) == 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("linear", [0.1, 0.325, 1]), ("exponential", [0.1, 10**-0.75, 1]), ("constant", [0.1, 0.1, 1])],
)
def test_shapes_of_a_warmup(shape, expected):
    schedule = scheduled(
        "scheduler=constant",
        "scheduler.warmup_epochs=4",
        f"scheduler.warmup_shape={shape}",
        "scheduler.warmup_first=0.1",
    )
    assert [schedule(epoch) for epoch in (0, 1, 4)] == pytest.approx(expected)


def test_a_warmup_in_steps():
    """As pre-activation ResNet-110 has it: a tenth of the rate for 400 steps, of which an epoch has 391."""
    config = composed(
        "scheduler.warmup_steps=400",
        "scheduler.warmup_shape=constant",
        "scheduler.warmup_first=0.1",
        "trainer.max_epochs=164",
    )
    schedule = make_schedule(config, steps_per_epoch=391)
    assert [schedule(step / 391) for step in (0, 399, 400, 401)] == pytest.approx([0.1, 0.1, 1, 1])
    with pytest.raises(CommandError, match=r"warmup_steps=400: must be shorter than trainer\.max_epochs=164"):
        make_schedule(config, steps_per_epoch=2)


@pytest.mark.parametrize("name", ["step", "cosine", "constant"])
def test_warmup_goes_in_front_of_any(name):
    schedule = scheduled(f"scheduler={name}", "scheduler.warmup_epochs=4")
    assert isinstance(schedule, Warmup)
    assert [schedule(epoch) for epoch in (0, 1, 3, 4)] == pytest.approx([0, 0.25, 0.75, 1])
    assert schedule(math.nextafter(4, 0)) == pytest.approx(schedule(4))


def test_warmup_then_constant():
    schedule = scheduled("scheduler=warmup")
    assert [schedule(epoch) for epoch in (0, 2.5, 5, 6, 20)] == pytest.approx([0, 0.5, 1, 1, 1])


def test_warmup_is_off_by_default():
    assert scheduled("scheduler=constant")(0) == 1


# The schedule that is fed


def plateau(**settings) -> Plateau:
    """A plateau with torch's own defaults."""
    defaults = {"metric": "loss", "gamma": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, "final": 0}
    return Plateau(start=0, end=100, **(defaults | settings))


def record(epoch: int, metric: str, value: float) -> dict:
    """An epoch's figures, of which the metric in training must not be looked at."""
    return {"epoch": epoch, f"train_{metric}": -value, f"val_{metric}": value}


@given(
    metric=st.sampled_from(["loss", "accuracy"]),
    values=st.lists(st.sampled_from([0.1, 0.3, 0.32, 0.5, 0.52, 0.7, 0.9, math.nan]), max_size=60),
    gamma=st.floats(0.05, 0.95),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0, 1e-4, 0.05]),
    cooldown=st.integers(0, 3),
    final=st.sampled_from([0, 0.01, 0.5]),
)
def test_plateau_equals_torch_epoch_by_epoch(metric, values, gamma, patience, threshold, cooldown, final):
    ours = plateau(metric=metric, gamma=gamma, patience=patience, threshold=threshold, cooldown=cooldown, final=final)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch_schedulers.ReduceLROnPlateau(
        optimizer,
        mode={"loss": "min", "accuracy": "max"}[metric],
        factor=gamma,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=final,
        eps=0,
    )
    for epoch, value in enumerate(values, 1):
        ours.step(record(epoch, metric, value))
        theirs.step(value)
        assert ours(epoch) == optimizer.param_groups[0]["lr"], epoch


def test_plateau_waits_then_falls():
    schedule = plateau(patience=2)
    factors = []
    for epoch, loss in enumerate([2, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5], 1):
        schedule.step(record(epoch, "loss", loss))
        factors.append(schedule(epoch))
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])


def test_plateau_looks_at_the_training_where_nothing_is_held_out():
    schedule = plateau(patience=0)
    for epoch in (1, 2):
        schedule.step({"epoch": epoch, "train_loss": 1.0, "train_accuracy": 0.5})
    assert schedule(2) == 0.1


def test_plateau_does_not_count_its_warmup():
    schedule = scheduled("scheduler=plateau", "scheduler.patience=0", "scheduler.warmup_epochs=3")
    fed = metric_schedule(schedule)
    for epoch in (1, 2, 3, 4):
        assert schedule(epoch - 1) == pytest.approx(min(1, (epoch - 1) / 3))
        fed.step(record(epoch, "loss", 1))
    assert schedule(4) == 1, "epoch 4 is the first that counts"
    fed.step(record(5, "loss", 1))
    assert schedule(5) == pytest.approx(0.1)


def test_plateau_goes_on_from_its_state():
    losses = [3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
    for cut in range(len(losses)):
        first, second, third = (plateau(patience=1, cooldown=2) for _ in range(3))
        for epoch, loss in enumerate(losses):
            first.step(record(epoch + 1, "loss", loss))
            (second if epoch < cut else third).step(record(epoch + 1, "loss", loss))
            if epoch == cut - 1:
                third.load_state_dict(second.state_dict())
        assert third == first, cut


@pytest.mark.parametrize("name", option_names("scheduler"))
def test_only_plateau_is_fed(name):
    assert (metric_schedule(of_twenty_epochs(name)) is not None) == (name == "plateau")


def test_plateau_is_fed_behind_a_warmup_too():
    assert metric_schedule(scheduled("scheduler=plateau", "scheduler.warmup_epochs=3")) is not None
