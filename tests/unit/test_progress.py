"""Progress: what the log says, and how often."""

import logging

import pytest

from smallbatch.core import console
from smallbatch.runs.heartbeat import BLOCKED, RUNNING
from smallbatch.runs.records import Epoch
from smallbatch.training import progress
from smallbatch.training.progress import Progress

HISTORY = [[Epoch(1, 0.1, 1.0, 1.0, accuracy, 0.0)] for accuracy in (0.25, 0.5)]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def lines(caplog, clock, seconds, resumed=0):
    with caplog.at_level(logging.INFO, "smallbatch"):
        progress = Progress(images=3 * 2 * 1000)
        progress.begin("ResNet-8", ["one", "two", "three"], epochs=2, images=1000, resumed=resumed)
        clock.now += seconds
        progress.block(2000)
        progress.epoch(1 + resumed, HISTORY)
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_epoch_accuracy_speed_and_time_left(caplog, clock):
    # 2 of 3 lanes are left and trained 2,000 images in 20 s; half of what was planned is done with.
    said = lines(caplog, clock, 20.0)
    assert said[-1] == (
        "ResNet-8: epoch 1 of 2, 2 lanes, accuracy 25.0-50.0 %, 100 images/s, about 0:20 left in this pack"
    )


def test_what_an_earlier_job_trained_does_not_count_as_speed(caplog, clock):
    # Half was there; the other half of an image count of 6,000 took 20 s, and nothing is left.
    assert "100 images/s, about 0:00 left" in lines(caplog, clock, 20.0, resumed=1)[-1]


def test_it_keeps_silent_for_some_seconds(caplog, clock):
    assert lines(caplog, clock, 5.0) == ["ResNet-8: begins"]


def test_speed_is_that_of_the_last_seconds(clock):
    progress = Progress(images=100_000)
    progress.begin("ResNet-8", ["one"], epochs=2, images=50_000)
    timings = []
    for seconds, images in [(0.5, 100), (0.5, 100), (9.0, 100), (1.0, 900), (5.0, 0)]:
        clock.now += seconds
        progress.block(images)
        timings.append(progress.writer.heartbeat.speed)
    assert timings == [None, 200, 200, 100, 100], "first after a second, then every ten"
    assert progress.writer.heartbeat.trained == 1200 and progress.writer.heartbeat.left == 16 * 98_800 / 1200


def test_waiting_for_another_job_is_no_training(clock):
    progress = Progress(images=100_000)
    progress.begin("ResNet-8", ["one"], epochs=2, images=50_000)
    clock.now += 1
    progress.block(300)
    progress.report_waiting("ResNet-8")
    assert (progress.writer.heartbeat.state, progress.writer.heartbeat.speed, progress.writer.heartbeat.group) == (
        BLOCKED,
        None,
        (),
    )
    clock.now += 1000
    progress.begin("ResNet-8", ["two"], epochs=2, images=50_000)
    clock.now += 1
    progress.block(400)
    assert (progress.writer.heartbeat.state, progress.writer.heartbeat.speed, progress.writer.heartbeat.group) == (
        RUNNING,
        400,
        ["two"],
    )


def test_what_an_earlier_job_trained_is_done_from_the_beginning():
    progress = Progress(images=6000)
    progress.begin("ResNet-8", ["one", "two", "three"], epochs=2, images=1000, resumed=1)
    assert (progress.writer.heartbeat.trained, progress.writer.heartbeat.epoch, progress.writer.heartbeat.left) == (
        3000,
        1,
        None,
    )


def test_times_read_as_a_clock():
    assert [console.clock(seconds) for seconds in (5, 65, 3665)] == ["0:05", "1:05", "1:01:05"]
