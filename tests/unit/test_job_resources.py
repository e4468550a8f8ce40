"""What training jobs ask for, and their order, by values worked out by hand."""

import pytest
from helpers import a_run

from smallbatch.estimate.job_resources import memory_mb, minutes, priority
from smallbatch.estimate.timings import Kind, Measured, Timing, Timings
from smallbatch.runs.packs import relative_cost, split_by_cost

KIND = Kind("alexnet", "none", "all", False, "float32", "made")
UNKNOWN = Timings({}, "")


def known(training: float = 1.0, memory: int = 0) -> Timings:
    """A training image takes so many seconds, a test image none; there are 100 training images."""
    return Timings({KIND: Measured(100, 50, {2: Timing(training, 0.0, memory)})}, "a device")


def runs(count: int = 1, m: int = 2, epochs: int = 2):
    return [a_run(batch_size=m, seed=seed, epochs=epochs) for seed in range(count)]


@pytest.mark.parametrize(("m", "mb"), [(2, 2000), (256, 2000), (512, 4000), (767, 4000), (2048, 16000)])
def test_memory_that_was_not_measured_is_2000_mb_for_each_256_examples(m, mb):
    assert memory_mb([*runs(m=2), *runs(m=m)], UNKNOWN, 1, 1) == mb


@pytest.mark.parametrize(
    ("measured", "mb"),
    [
        (1, 500),
        (400 * 10**6, 500),
        (401 * 10**6, 1000),
        (3100 * 10**6, 4000),
        (4 * 10**9 + 1, 5500),
        (0, 2000),
    ],  # 0: a GPU's own memory
)
def test_memory_that_was_measured_is_a_quarter_more_in_steps(measured, mb):
    assert memory_mb(runs(), known(memory=measured), 1, 1) == mb


def test_memory_doubles_with_each_attempt_and_is_that_of_all_parts():
    assert [memory_mb(runs(), UNKNOWN, 1, attempt) for attempt in (1, 2, 3)] == [2000, 4000, 8000]
    assert memory_mb(runs(), UNKNOWN, 4, 2) == 16000


@pytest.mark.parametrize(
    ("training", "asked"),
    # 200 images of so many seconds: 5 minutes and twice that.
    [(0.75, 10), (0.76, 20), (3.75, 30), (8.25, 60), (17.25, 120), (35.25, 240), (36, 480), (72, 960), (144, 1440),
     (1000, 1440)],
)  # fmt: skip
def test_minutes_are_five_and_twice_those_measured_in_steps(training, asked):
    assert minutes(runs(), known(training), 1, 1) == asked


def test_minutes_grow_with_each_attempt_to_a_day_and_are_those_of_each_part():
    assert [minutes(runs(), UNKNOWN, 1, attempt) for attempt in (1, 2, 7)] == [240, 480, 1440]
    assert [minutes(runs(), known(0.75), 1, attempt) for attempt in (1, 3)] == [10, 30]
    assert minutes(runs(4), known(0.75), 4, 1) == 10
    assert minutes(runs(4), known(0.75), 2, 1) == 20


def turns(packs, timings, awaited=()):
    return sorted(packs, key=lambda name: -priority(packs[name], timings, awaited=name in awaited))


@pytest.mark.parametrize("timings", [UNKNOWN, known()])
def test_jobs_go_long_before_short_and_first_those_that_others_wait_for(timings):
    packs = {"short": runs(1), "long": runs(3), "middle": runs(2), "longest": runs(4)}
    assert turns(packs, timings) == ["longest", "long", "middle", "short"]
    assert turns(packs, timings, awaited=("short", "long")) == ["long", "short", "longest", "middle"]
    assert all(
        -2 < priority(pack, timings, awaited=awaited) < 0 for pack in packs.values() for awaited in (True, False)
    )


def test_where_speeds_are_known_they_decide_what_is_long():
    large = [a_run(batch_size=8, epochs=2)]
    slow_when_large = Timings({KIND: Measured(100, 50, {2: Timing(1.0, 0.0, 0), 8: Timing(9.0, 0.0, 0)})}, "")
    assert priority(large, UNKNOWN, awaited=False) < priority(runs(), UNKNOWN, awaited=False)
    assert priority(large, slow_when_large, awaited=False) > priority(runs(), slow_when_large, awaited=False)
    assert priority(runs(), known(), awaited=False) == pytest.approx(-1 - 1 / 201)  # 200 images of a second
    assert priority(runs(), UNKNOWN, awaited=True) == pytest.approx(-1 / 6)  # 2 epochs, (1 + 3/2) each


def test_the_cost_of_a_run_is_that_of_its_epochs_its_small_batches_and_what_it_measures():
    assert [relative_cost(a_run(batch_size=m, epochs=4)) for m in (1, 3, 12)] == [16, 8, 5]
    assert relative_cost(a_run(batch_size=3, epochs=4, variance_batch_sizes=(2, 4))) == 24
    # In epochs of 50,000 images.
    assert relative_cost(a_run(batch_size=1, epochs=0, steps=100_000)) == 8
    assert relative_cost(a_run(batch_size=3, epochs=0, images=100_001)) == pytest.approx(4, rel=1e-4)


def test_parts_have_about_equal_costs_and_whole_rows():
    # Costs of the rows: m = 1: 2 * 16; m = 3: 4 * 8; m = 12: 6 * 5.
    rows = {1: runs(2, 1, 4), 3: runs(4, 3, 4), 12: runs(6, 12, 4)}
    mixed = [run for some in rows.values() for run in some][::-1]
    found = split_by_cost(mixed, 2)
    assert [sorted({run.batch_size for run in part}) for part in found] == [[1, 12], [3]]
    assert [len(part) for part in found] == [8, 4]
    assert [len(part) for part in split_by_cost(mixed, 5)] == [2, 4, 6], "no part is empty"
    assert [len(part) for part in split_by_cost(mixed, 1)] == [12]
    assert split_by_cost([], 3) == []
    by_count = split_by_cost(mixed, 2, lambda run: 1.0)
    assert [sorted({run.batch_size for run in part}) for part in by_count] == [[12], [1, 3]]
