"""Progress: what the log says, and how often."""

import logging

from smallbatch.store import Epoch
from smallbatch.training import progress
from smallbatch.training.progress import Progress

HISTORY = [[Epoch(1, 0.1, 1.0, 1.0, accuracy, 0.0)] for accuracy in (0.25, 0.5)]


def lines(caplog, monkeypatch, times, resumed=0):
    clock = iter(times)
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "smallbatch"):
        told = Progress(images=3 * 2 * 1000)
        told.begin("ResNet-8", lanes=3, epochs=2, images=1000, resumed=resumed)
        told.epoch(1 + resumed, HISTORY)
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_epoch_accuracy_speed_and_time_left(caplog, monkeypatch):
    # 2 of 3 lanes are left and trained 2,000 images in 20 s; half of what was planned is done with.
    said = lines(caplog, monkeypatch, [0.0, 20.0, 20.0, 20.0])
    assert said[-1] == (
        "ResNet-8: epoch 1 of 2, 2 lanes, accuracy 25.0-50.0 %, 100 images/s, about 0:20 left in this pack"
    )


def test_what_an_earlier_job_trained_does_not_count_as_speed(caplog, monkeypatch):
    # Half was there; the other half of an image count of 6,000 took 20 s, and nothing is left.
    assert "100 images/s, about 0:00 left" in lines(caplog, monkeypatch, [0.0, 20.0, 20.0, 20.0], resumed=1)[-1]


def test_it_keeps_silent_for_some_seconds(caplog, monkeypatch):
    assert lines(caplog, monkeypatch, [0.0, 5.0]) == ["ResNet-8: begins"]


def test_times_read_as_a_clock():
    assert [progress._clock(seconds) for seconds in (5, 65, 3665)] == ["0:05", "1:05", "1:01:05"]
