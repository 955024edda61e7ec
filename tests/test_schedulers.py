"""Schedules at their corners, and beside torch's own."""

import math

import pytest
import torch
from conftest import composed, option_names
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedulers

from engine.check import CommandError, make_schedule
from schedulers.cosine import Cosine
from schedulers.cosine_restarts import CosineRestarts
from schedulers.exponential import Exponential
from schedulers.htd import HTD
from schedulers.multistep import Multistep
from schedulers.one_cycle import OneCycle
from schedulers.polynomial import Polynomial
from schedulers.stable_decay import StableDecay
from schedulers.step import Step
from schedulers.swa import SWA
from schedulers.triangular import Triangular
from schedulers.warmup import Warmup


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


SCHEDULES = {name: scheduled(f"scheduler={name}", max_epochs=20) for name in option_names("scheduler")}


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


@pytest.mark.parametrize("milestones", [[10, 10], [15, 10], [0.9, 5]])
def test_milestones_must_ascend(milestones):
    with pytest.raises(ValueError, match="do not ascend"):
        Multistep(start=0, end=20, milestones=milestones, gamma=0.1)


def test_a_milestone_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="milestone 21 lies behind the last epoch, 20"):
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
        with pytest.raises(ValueError, match=f"begin={begin} does not lie between epoch 2 and the last, 20"):
            SWA(start=2, end=20, begin=begin, final=0.2)


def test_stable_decay_falls_in_its_last_epochs():
    schedule = StableDecay(start=2, end=20, decay=0.2, final=0.1)
    assert [schedule(epoch) for epoch in (2, 10, 16, 18, 20)] == pytest.approx([1, 1, 1, 0.55, 0.1])
    with pytest.raises(ValueError, match="decay=19 is longer than the run behind its warm-up"):
        StableDecay(start=2, end=20, decay=19, final=0)


@pytest.mark.parametrize("peak", [2, 20, 30])
def test_the_peak_of_a_cycle_lies_within_the_run(peak):
    with pytest.raises(ValueError, match="does not lie between epoch 2 and the last, 20"):
        OneCycle(start=2, end=20, peak=peak, initial=0.1, final=0)


@pytest.mark.parametrize("name", option_names("scheduler"))
@given(epoch=st.floats(0, 20))
def test_a_schedule_stays_between_zero_and_the_full_rate(name, epoch):
    assert 0 <= SCHEDULES[name](epoch) <= 1


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
    assert abs(SCHEDULES[name](epoch + 1e-3) - SCHEDULES[name](epoch)) < 0.025


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
    with pytest.raises(CommandError, match=r"warmup_steps=400: not shorter than trainer\.max_epochs=164"):
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
