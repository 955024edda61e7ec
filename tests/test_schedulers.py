"""Schedules at their corners, and beside torch's own."""

import math

import pytest
import torch
from conftest import composed

from engine.check import make_schedule
from schedulers.cosine import Cosine
from schedulers.step import Step
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


def test_step_equals_torch():
    ours = Step(start=0, end=20, milestones=[8, 15], gamma=0.1)
    theirs = torch_factors(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 15], 0.1), 20)
    assert [ours(epoch) for epoch in range(20)] == pytest.approx(theirs)


def test_cosine_equals_torch():
    ours = Cosine(start=0, end=20, final=0.01)
    theirs = torch_factors(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, 0.01), 20)
    assert [ours(epoch) for epoch in range(20)] == pytest.approx(theirs)


def test_cosine_behind_a_warmup_equals_torch():
    ours = scheduled("scheduler=cosine", "scheduler.warmup_epochs=5")

    def theirs(optimizer):
        ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-12, 1.0, total_iters=5)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [5])

    assert [ours(epoch) for epoch in range(20)] == pytest.approx(torch_factors(theirs, 20), abs=1e-9)


def test_step_at_its_milestones():
    schedule = Step(start=0, end=20, milestones=[10, 15], gamma=0.1)
    before = math.nextafter(10, 0)
    assert [schedule(epoch) for epoch in (0, before, 10, 14.99, 15, 20)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_milestone_below_one_is_a_share_of_the_run():
    assert Step(start=0, end=164, milestones=[0.5, 0.75], gamma=0.1).epochs == [82, 123]


@pytest.mark.parametrize("milestones", [[10, 10], [15, 10], [0.9, 5]])
def test_milestones_must_ascend(milestones):
    with pytest.raises(ValueError, match="do not ascend"):
        Step(start=0, end=20, milestones=milestones, gamma=0.1)


def test_a_milestone_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="milestone 21 lies behind the last epoch, 20"):
        Step(start=0, end=20, milestones=[10, 21], gamma=0.1)


def test_cosine_at_its_ends():
    schedule = Cosine(start=0, end=20, final=0.1)
    assert [schedule(epoch) for epoch in (0, 10, 20, 25)] == pytest.approx([1, 0.55, 0.1, 0.1])


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
