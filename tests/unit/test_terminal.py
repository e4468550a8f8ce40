"""The terminal while a study is trained: a last line that is redrawn, what goes above it, and what is left out."""

import logging
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import terminal

from smallbatch.runs.status import Status
from smallbatch.terminal import progress_line
from smallbatch.terminal.screen import Screen

STATUS = Status("mine", 0.0, {"all": {"runs": 22, "done": 3}}, [], {}, None, None, [])


@pytest.fixture
def screen():
    """(screen, its terminal, the descriptor that it takes over)."""
    reader, descriptor = pty.openpty()
    taken = Screen(descriptor, interrupted="Stopping.")
    yield taken, reader, descriptor
    os.close(reader)
    os.close(descriptor)


def seen(reader):
    written = b""
    while select.select([reader], [], [], 0.2)[0]:
        written += os.read(reader, 65536)
    return terminal.lines(written.decode())


def test_what_children_write_goes_above_the_last_line_which_is_erased_at_the_end(screen):
    screen, reader, descriptor = screen
    screen.draw("a long line")
    screen.draw("line")
    child = "import sys; print(sys.stderr.isatty(), file=sys.stderr); print('end', end='', file=sys.stderr)"
    subprocess.run([sys.executable, "-c", child], stderr=descriptor, check=True)
    screen.say("said")
    assert sorted(seen(reader)) == ["False", "line", "said"], "no terminal to a child, and whole lines alone"
    screen.close()
    assert seen(reader)[-2:] == ["end", ""]
    assert os.isatty(descriptor)


def test_a_muted_screen_drops_what_others_write(screen):
    screen, reader, descriptor = screen
    screen.muted = True
    os.write(descriptor, b"Traceback\n")
    screen.say("said")
    screen.close()
    assert [row for row in seen(reader) if row] == ["said"]


def test_ctrl_c_mutes_the_screen_at_once_though_python_may_handle_it_later():
    """A job that ends by the same Ctrl-C may write before the main thread has its turn."""
    reader, descriptor = pty.openpty()
    screen, muted = Screen(descriptor, interrupted="Stopping."), []

    def handle(*_):
        end = time.monotonic() + 5
        while not screen.muted and time.monotonic() < end:
            time.sleep(0.01)
        muted.append(screen.muted)

    former = signal.signal(signal.SIGINT, handle)
    try:
        os.write(descriptor, b"before\n")
        assert seen(reader)[0] == "before"
        signal.raise_signal(signal.SIGINT)
        os.write(descriptor, b"Traceback\n")
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)
    screen.close()
    assert muted == [True, True]
    assert [row for row in seen(reader) if row] == ["Stopping."], "once, and nothing of what came after"
    assert signal.set_wakeup_fd(-1) == -1
    os.close(reader)
    os.close(descriptor)


def test_other_signals_do_not_mute_a_screen(screen):
    screen, reader, descriptor = screen
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.raise_signal(signal.SIGUSR1)
    os.write(descriptor, b"text\n")
    screen.close()
    signal.signal(signal.SIGUSR1, former)
    assert seen(reader)[0] == "text" and not screen.muted


def test_a_terminal_that_is_gone_stops_nobody():
    reader, descriptor = pty.openpty()
    screen = Screen(descriptor)
    os.close(reader)
    os.write(descriptor, b"text\n" * 20000)
    screen.draw("line")
    screen.close()
    os.close(descriptor)


@pytest.mark.parametrize(
    ("event", "level", "text", "seen"),
    [
        (None, logging.INFO, "Nothing to be done (all requested files are present and up to date).", True),
        (None, logging.INFO, "Building DAG of jobs...", False), (None, logging.INFO, "Using shell: /bin/bash", False),
        (None, logging.WARNING, "Building DAG of jobs...", True), ("run_info", logging.INFO, "Job stats:", False),
        ("workflow_started", logging.INFO, "host: here", False), ("resources_info", logging.WARNING, "", True),
        ("job_error", logging.ERROR, "", True),
    ],
)  # fmt: skip
def test_snakemakes_head_is_left_out(event, level, text, seen):
    assert progress_line.is_shown(event, level, text) == seen


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"rule_msg": "Drawing fig01", "rule_name": "figure", "log": ["a"]}, "Drawing fig01: done"),
        ({"rule_msg": "Training p (4 runs; at most 1 MB)", "rule_name": "train", "log": ["a"]}, "Training p: done"),
        ({"rule_msg": "Study a is complete.", "rule_name": "all", "log": []}, "Study a is complete."),
        ({"rule_msg": None, "rule_name": "mine", "log": ["a"]}, "mine: done"),
    ],
)
def test_a_job_in_a_line(job, message):
    assert progress_line.message(job) == message


def test_elsewhere_a_line_is_written_each_time(monkeypatch, capsys):
    monkeypatch.setattr(progress_line, "LINE_INTERVAL_S", 0.05)
    watch = progress_line.print_progress_lines(lambda: replace(STATUS, speed=1234.0, left=65.0))
    time.sleep(0.3)
    watch.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert {line.partition(" ")[2] for line in lines} == {"mine: 3 of 22 runs, 1,234 images/s, 1:05 left"}


def test_the_time_left_is_told_by_all_that_was_trained_since_the_first_look():
    """Not by the speed of this moment, which may be that of a slow batch size."""
    pace = progress_line.TimeLeft()
    assert pace.of(replace(STATUS, left=9.0)).left == 9.0, "how many images are left is not known"
    assert pace.of(replace(STATUS, now=100.0, images=5000.0, left=50.0)).left == 50.0
    assert pace.of(replace(STATUS, now=219.0, images=3000.0, left=600.0)).left == 600.0, "too early to tell"
    assert pace.of(replace(STATUS, now=300.0, images=5000.0, left=600.0)).left == 600.0, "nothing was trained"
    # 4000 images in 250 seconds, and 1000 to go.
    assert pace.of(replace(STATUS, now=350.0, images=1000.0, left=600.0)).left == 62.5
    assert pace.of(replace(STATUS, now=400.0, images=1000.0, speed=7.0)).speed == 7.0


def test_a_watch_tells_the_time_left_by_its_pace(monkeypatch):
    monkeypatch.setattr(progress_line, "TIME_LEFT_KNOWN", 0.0)
    looks = iter([(0.0, 100.0), (10.0, 80.0), (20.0, 70.0)])
    left = []

    def look():
        now, images = next(looks, (30.0, 70.0))
        return replace(STATUS, now=now, images=images, left=1.0)

    watch = progress_line.Watch(look, lambda status: left.append(status.left), every=0.01)
    while len(left) < 3:
        time.sleep(0.01)
    watch.end()
    assert left[:3] == [1.0, 40.0, 46.666666666666664]


def test_a_study_that_takes_long_to_look_at_is_looked_at_less_often():
    looks = []

    def look():
        looks.append(time.monotonic())
        time.sleep(0.02)
        return STATUS

    watch = progress_line.Watch(look, lambda status: None, every=0.01)
    time.sleep(0.6)
    watch.end()
    assert len(looks) == 1, "20 ms are 2 % of a second"


def test_a_file_that_goes_while_it_is_looked_at_ends_no_watch():
    looks, shown = [], []

    def look():
        looks.append(1)
        if len(looks) == 1:
            raise FileNotFoundError
        return STATUS

    watch = progress_line.Watch(look, shown.append, every=0.01)
    time.sleep(0.2)
    watch.end()
    assert shown[0] == STATUS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_look_as_the_process_ends_is_the_last_one(monkeypatch, capfd):
    """When no thread can be started any more, as records are read by some; while it runs that is an error."""

    def look():
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    for alive, errors in ((False, 0), (True, 1)):
        ended = SimpleNamespace(is_alive=lambda alive=alive: alive)
        with_superscripts = []
        with monkeypatch.context() as patch:
            patch.setattr(threading, "main_thread", lambda ended=ended: ended)
            patch.setattr(threading, "excepthook", with_superscripts.append)
            progress_line.Watch(look, lambda status: None, every=0.01)._thread.join()
        assert len(with_superscripts) == errors


def test_ctrl_c_while_a_line_is_written(screen):
    screen, _, _ = screen
    with screen._writing:
        screen.say("Stopping")
    screen.close()
