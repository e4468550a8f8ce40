"""The heartbeat of a training: what it says while it runs, and how it says that it ended."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers import a_run, training_settings

from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.data import prepared
from smallbatch.runs import heartbeat as heartbeats
from smallbatch.runs.heartbeat import (
    BLOCKED,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Heartbeat,
    HeartbeatWriter,
    first_heartbeat,
    keeping_heartbeat,
    read_heartbeat,
)
from smallbatch.training import launch
from smallbatch.training.checkpoint_folder import CheckpointFolder

RUNS = [a_run(seed=seed) for seed in (1, 2)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "packs" / "pack.json"


@pytest.fixture
def fingerprint(data_folder):
    return prepared.read(data_folder).meta.fingerprint


@pytest.fixture
def written(monkeypatch):
    """Every heartbeat that is written, in turn."""
    heard, write = [], heartbeats.write_sealed

    def hearing(path, value):
        write(path, value)
        heard.append(value)

    monkeypatch.setattr(heartbeats, "write_sealed", hearing)
    return heard


def train(data_folder, path, runs=RUNS, *, memory_mb=None, **changed):
    training = training_settings(**changed)
    return launch.train(
        runs, data_folder, path.parents[1], training, memory_mb=memory_mb, heartbeat=path, log_file="a.log"
    )


def test_a_training_says_what_it_trains_and_that_it_is_done(data_folder, path, fingerprint, written, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    before = time.time()
    assert train(data_folder, path, lanes=1) == 2
    names = [run.name(fingerprint) for run in RUNS]
    assert [heartbeat["group"] for heartbeat in written if heartbeat["title"] and not heartbeat["trained"]] == [
        [names[0]]
    ]
    last = heartbeats.read_heartbeat(path)
    assert (last.state, last.runs, last.group, last.log, last.device) == (DONE, names, names[1:], "a.log", "cpu")
    assert (last.epoch, last.epochs, last.images, last.trained, last.left) == (2, 2, 256, 256, 0)
    assert last.title == "alexnet on made, m=4, 1 lane" and last.job == "4711" and last.reason is None
    assert before <= last.since <= last.updated <= time.time()
    assert written[0]["state"] == RUNNING and written[0]["title"] == "" and written[0]["runs"] == names


def test_it_speaks_again_and_again_whatever_it_is_at(path, monkeypatch, written):
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.01)
    with HeartbeatWriter(path, first_heartbeat(["a"])) as writer:
        writer.update(epoch=3)
        deadline = time.monotonic() + 10
        while len(written) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(written) >= 3
        assert heartbeats.read_heartbeat(path).epoch == 3
    ended = len(written)
    time.sleep(0.1)
    assert len(written) == ended


def test_a_training_that_fails_says_why_in_one_line(data_folder, path):
    with pytest.raises(UserError):
        train(data_folder, path, memory_mb=1)
    heartbeat = heartbeats.read_heartbeat(path)
    assert heartbeat.state == FAILED and "memory" in heartbeat.reason and "\n" not in heartbeat.reason


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("this\nand that"), FAILED, "ValueError: this"),
        (ValueError(), FAILED, "ValueError"),
        (UserError("where: what"), FAILED, "where: what"),
        (KeyboardInterrupt(), STOPPED, "KeyboardInterrupt"),
    ],
)
def test_how_it_ended(error, state, reason, data_folder, path):
    with pytest.raises(type(error)), keeping_heartbeat(path, RUNS, data_folder, None):
        raise error
    heartbeat = heartbeats.read_heartbeat(path)
    assert (heartbeat.state, heartbeat.reason, heartbeat.log) == (state, reason, None)


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "ab") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_job_that_waits_for_another_says_so(data_folder, path, fingerprint, written):
    folder = CheckpointFolder(path.parents[1] / "checkpoints", RUNS[0], fingerprint)
    folder.root.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder.root / "lock"), str(int(folder.key, 16))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        threading.Thread(target=_kill_when_somebody_waits, args=(holder, written)).start()
        train(data_folder, path, lanes=2)
    (blocked,) = [heartbeat for heartbeat in written if heartbeat["state"] == BLOCKED]
    assert blocked["group"] == () and blocked["title"] == "alexnet on made, m=4, 2 lanes" and blocked["speed"] is None
    assert heartbeats.read_heartbeat(path).state == DONE and len(heartbeats.read_heartbeat(path).group) == 2


def _kill_when_somebody_waits(holder: subprocess.Popen, written: list) -> None:
    deadline = time.monotonic() + 60
    while not any(heartbeat["state"] == BLOCKED for heartbeat in written) and time.monotonic() < deadline:
        time.sleep(0.02)
    holder.kill()


def test_word_that_cannot_be_written_stops_no_training(data_folder, path):
    path.parent.write_text("a file, not a folder")
    assert train(data_folder, path) == 2


def test_what_is_no_word_is_named(path):
    for number, name in enumerate(["b", "a", "c"]):
        HeartbeatWriter(path.with_stem(name), first_heartbeat([name])).update(at_once=True)
        write_sealed(path.with_stem(name), read_sealed(path.with_stem(name)) | {"updated": float(number)})
    path.with_stem("half").write_text('{"state": "run')
    path.with_stem("edited").write_text(path.with_stem("a").read_text().replace('"running"', '"done"'))
    write_sealed(path.with_stem("other"), {"state": "running", "colour": "red"})
    path.with_stem("pipe").parent.joinpath("pipe.json").mkdir()
    (path.parent / ".a.json.x1y2").write_text("being written")
    found, wrong = heartbeats.read_heartbeats(path.parent)
    assert list(found) == ["b", "a", "c"], "in the order in which they were updated"
    reasons = {
        "edited": "does not fit its digest",
        "half": "damaged or edited",
        "other": "version",
        "pipe": "is a folder",
    }
    assert len(wrong) == 4
    for (name, reason), written in zip(reasons.items(), wrong, strict=True):
        assert written.startswith(f"{path.with_stem(name)}: ") and reason in written
    assert heartbeats.read_heartbeats(path.parent / "nowhere") == ({}, [])


def test_the_first_says_who_writes_and_when(monkeypatch):
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1000.0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    written = first_heartbeat(["a", "b"], "logs/train/a.log")
    assert written == Heartbeat(
        "running", 1000.0, 1000.0, socket.gethostname(), os.getpid(), "17", "logs/train/a.log", ["a", "b"]
    )


def test_a_word_is_spoken_when_it_is_written(path, monkeypatch):
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1000.0)
    writer = HeartbeatWriter(path, first_heartbeat())
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1070.0)
    writer.update(at_once=True, epoch=3)
    assert (read_heartbeat(path).since, read_heartbeat(path).updated, read_heartbeat(path).epoch) == (1000.0, 1070.0, 3)


def test_that_of_version_0_1_is_read(path):
    HeartbeatWriter(path, first_heartbeat(["a"])).update(at_once=True)
    values = read_sealed(path)
    write_sealed(path, {key: value for key, value in values.items() if key != "updated"} | {"spoken": 7.0})
    assert read_heartbeat(path).updated == 7.0
