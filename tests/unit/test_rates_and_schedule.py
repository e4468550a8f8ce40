"""The learning-rate convention and the schedule, against values worked out by hand."""

import pytest

from smallbatch.study.rates import format_base_lr, learning_rate, parse_base_lr
from smallbatch.training.schedule import Schedule


def test_eta_is_base_lr_times_m():
    assert learning_rate(parse_base_lr("2^-8"), 64) == 0.25


@pytest.mark.parametrize(("text", "value"), [("2^-12", 1 / 4096), ("2^0", 1.0), (0.003, 0.003), ("2^3", 8.0)])
def test_base_lr_is_read_and_written_alike(text, value):
    assert parse_base_lr(text) == value
    assert format_base_lr(value) == str(text)


def test_rate_falls_to_a_tenth_at_each_drop():
    schedule = Schedule(steps=100, drops=(0.5, 0.75), warmup=False)
    assert [schedule(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_drop_between_two_steps_comes_at_the_later():
    schedule = Schedule(steps=5, drops=(0.5,), warmup=False)
    assert [schedule(step) for step in range(5)] == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_warmup_rises_linearly_from_a_32nd_over_the_first_twentieth():
    schedule = Schedule(steps=200, drops=(0.5,), warmup=True)
    assert schedule(0) == 1 / 32
    assert schedule(5) == pytest.approx((1 / 32 + 1) / 2)
    assert schedule(10) == 1
    assert schedule(100) == pytest.approx(0.1)


def test_a_drop_within_the_warmup_counts_as_well():
    schedule = Schedule(steps=100, drops=(0.02,), warmup=True)  # rises over 5 steps, falls at step 2
    assert [schedule(step) for step in (1, 2, 4, 5)] == pytest.approx(
        [1 / 32 + 31 / 32 / 5, 0.1 * (1 / 32 + 31 / 32 * 2 / 5), 0.1 * (1 / 32 + 31 / 32 * 4 / 5), 0.1]
    )
