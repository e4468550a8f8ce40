"""The learning-rate convention and the schedule, against values worked out by hand, and torch's."""

from collections.abc import Callable

import pytest
import torch
from helpers import a_run
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from smallbatch.study.rates import format_base_lr, learning_rate, parse_base_lr
from smallbatch.training.schedule import Schedule


def test_eta_is_base_lr_times_m():
    assert learning_rate(parse_base_lr("2^-8"), 64) == 0.25


@pytest.mark.parametrize(("text", "value"), [("2^-12", 1 / 4096), ("2^0", 1.0), (0.003, 0.003), ("2^3", 8.0)])
def test_base_lr_is_read_and_written_alike(text, value):
    assert parse_base_lr(text) == value
    assert format_base_lr(value) == str(text)


def schedule(steps: int, **setting) -> Schedule:
    return Schedule(steps, a_run(**setting).setting)


def test_rate_falls_to_a_tenth_at_each_drop():
    factor = schedule(100)
    assert [factor(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_another_factor_is_left_at_each_drop():
    factor = schedule(4, lr_drop_factor=0.5)
    assert [factor(step) for step in range(4)] == [1, 1, 0.5, 0.25]


def test_drop_between_two_steps_comes_at_the_later():
    factor = schedule(5, lr_drops=(0.5,))
    assert [factor(step) for step in range(5)] == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_warmup_rises_linearly_from_a_32nd_over_the_first_twentieth():
    factor = schedule(200, lr_drops=(0.5,), warmup=True)
    assert factor(0) == 1 / 32
    assert factor(5) == pytest.approx((1 / 32 + 1) / 2)
    assert factor(10) == 1
    assert factor(100) == pytest.approx(0.1)


def test_a_drop_within_the_warmup_counts_as_well():
    factor = schedule(100, lr_drops=(0.02,), warmup=True)  # rises over 5 steps, falls at step 2
    assert [factor(step) for step in (1, 2, 4, 5)] == pytest.approx(
        [1 / 32 + 31 / 32 / 5, 0.1 * (1 / 32 + 31 / 32 * 2 / 5), 0.1 * (1 / 32 + 31 / 32 * 4 / 5), 0.1]
    )


def of_torch(steps: int, kind: Callable, **options) -> list[float]:
    """The factors of a scheduler of torch's."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, factors = kind(optimizer, **options), []
    for step in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:  # one more is refused by some
            scheduler.step()
    return factors


@pytest.mark.parametrize("steps", [7, 100])
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("cosine", CosineAnnealingLR, lambda steps: {"T_max": steps}),
        ("linear", LinearLR, lambda steps: {"start_factor": 1, "end_factor": 0, "total_iters": steps}),
        ("one-cycle", OneCycleLR, lambda steps: {"max_lr": 1.0, "total_steps": steps, "cycle_momentum": False}),
    ],
)
def test_other_schedules_are_torchs(name, kind, options, steps):
    theirs = of_torch(steps, kind, **options(steps))
    assert [schedule(steps, lr_schedule=name)(step) for step in range(steps)] == pytest.approx(theirs, abs=1e-12)


def test_one_cycle_ends_at_a_250_thousandth():
    assert schedule(100, lr_schedule="one-cycle")(99) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["drops", "cosine", "linear", "one-cycle"])
def test_the_shortest_trainings_have_a_rate(name, steps):
    assert all(0 < schedule(steps, lr_schedule=name)(step) <= 1 for step in range(steps))


@pytest.mark.parametrize(("name", "halfway"), [("cosine", 0.5), ("linear", 0.5)])
def test_where_the_rate_falls_all_along_it_does_so_from_the_end_of_the_warmup(name, halfway):
    factor = schedule(100, lr_schedule=name, warmup=True, warmup_fraction=0.2, warmup_start=0.0)
    assert [factor(step) for step in (0, 10, 20, 60)] == pytest.approx([0, 0.5, 1, halfway])
