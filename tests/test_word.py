"""The word that a training leaves: what it says while it runs, and how it says that it ended."""

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
from smallbatch.runs import heartbeat as words
from smallbatch.runs.heartbeat import (
    BLOCKED,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Voice,
    Word,
    first_word,
    leaving_word,
    read_word,
)
from smallbatch.training import launch
from smallbatch.training.row import Row

RUNS = [a_run(seed=seed) for seed in (1, 2)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "packs" / "pack.json"


@pytest.fixture
def fingerprint(data_folder):
    return prepared.read(data_folder).meta.fingerprint


@pytest.fixture
def said(monkeypatch):
    """Every word that is written, in turn."""
    heard, write = [], words.write_sealed

    def hearing(path, value):
        write(path, value)
        heard.append(value)

    monkeypatch.setattr(words, "write_sealed", hearing)
    return heard


def train(data_folder, path, runs=RUNS, *, memory_mb=None, **changed):
    training = training_settings(**changed)
    return launch.train(runs, data_folder, path.parents[1], training, memory_mb=memory_mb, word=path, log_file="a.log")


def test_a_training_says_what_it_trains_and_that_it_is_done(data_folder, path, fingerprint, said, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    before = time.time()
    assert train(data_folder, path, lanes=1) == 2
    names = [run.name(fingerprint) for run in RUNS]
    assert [word["group"] for word in said if word["title"] and not word["trained"]] == [[names[0]]]
    last = words.read_word(path)
    assert (last.state, last.runs, last.group, last.log, last.device) == (DONE, names, names[1:], "a.log", "cpu")
    assert (last.epoch, last.epochs, last.images, last.trained, last.left) == (2, 2, 256, 256, 0)
    assert last.title == "alexnet on made, m=4, 1 lane" and last.job == "4711" and last.reason is None
    assert before <= last.since <= last.spoken <= time.time()
    assert said[0]["state"] == RUNNING and said[0]["title"] == "" and said[0]["runs"] == names


def test_it_speaks_again_and_again_whatever_it_is_at(path, monkeypatch, said):
    monkeypatch.setattr(words, "EVERY", 0.01)
    with Voice(path, first_word(["a"])) as voice:
        voice.say(epoch=3)
        deadline = time.monotonic() + 10
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(said) >= 3
        assert words.read_word(path).epoch == 3
    ended = len(said)
    time.sleep(0.1)
    assert len(said) == ended


def test_a_training_that_fails_says_why_in_one_line(data_folder, path):
    with pytest.raises(UserError):
        train(data_folder, path, memory_mb=1)
    word = words.read_word(path)
    assert word.state == FAILED and "memory" in word.reason and "\n" not in word.reason


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
    with pytest.raises(type(error)), leaving_word(path, RUNS, data_folder, None):
        raise error
    word = words.read_word(path)
    assert (word.state, word.reason, word.log) == (state, reason, None)


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "ab") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_job_that_waits_for_another_says_so(data_folder, path, fingerprint, said):
    row = Row(path.parents[1] / "checkpoints", RUNS[0], fingerprint)
    row.root.mkdir()
    command = [sys.executable, "-c", HOLD, str(row.root / "lock"), str(int(row.key, 16))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        threading.Thread(target=_kill_when_somebody_waits, args=(holder, said)).start()
        train(data_folder, path, lanes=2)
    (blocked,) = [word for word in said if word["state"] == BLOCKED]
    assert blocked["group"] == () and blocked["title"] == "alexnet on made, m=4, 2 lanes" and blocked["speed"] is None
    assert words.read_word(path).state == DONE and len(words.read_word(path).group) == 2


def _kill_when_somebody_waits(holder: subprocess.Popen, said: list) -> None:
    deadline = time.monotonic() + 60
    while not any(word["state"] == BLOCKED for word in said) and time.monotonic() < deadline:
        time.sleep(0.02)
    holder.kill()


def test_word_that_cannot_be_written_stops_no_training(data_folder, path):
    path.parent.write_text("a file, not a folder")
    assert train(data_folder, path) == 2


def test_what_is_no_word_is_named(path):
    for number, name in enumerate(["b", "a", "c"]):
        Voice(path.with_stem(name), first_word([name])).say(at_once=True)
        write_sealed(path.with_stem(name), read_sealed(path.with_stem(name)) | {"spoken": float(number)})
    path.with_stem("half").write_text('{"state": "run')
    path.with_stem("edited").write_text(path.with_stem("a").read_text().replace('"running"', '"done"'))
    write_sealed(path.with_stem("other"), {"state": "running", "colour": "red"})
    path.with_stem("pipe").parent.joinpath("pipe.json").mkdir()
    (path.parent / ".a.json.x1y2").write_text("being written")
    found, wrong = words.read_words(path.parent)
    assert list(found) == ["b", "a", "c"], "in the order in which they were spoken"
    reasons = {
        "edited": "does not fit its digest",
        "half": "damaged or edited",
        "other": "version",
        "pipe": "is no file",
    }
    assert len(wrong) == 4
    for (name, reason), said in zip(reasons.items(), wrong, strict=True):
        assert said.startswith(f"{path.with_stem(name)}: ") and reason in said
    assert words.read_words(path.parent / "nowhere") == ({}, [])


def test_the_first_word_says_who_speaks_and_when(monkeypatch):
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1000.0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    said = first_word(["a", "b"], "logs/train/a.log")
    assert said == Word(
        "running", 1000.0, 1000.0, socket.gethostname(), os.getpid(), "17", "logs/train/a.log", ["a", "b"]
    )


def test_a_word_is_spoken_when_it_is_written(path, monkeypatch):
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1000.0)
    voice = Voice(path, first_word())
    monkeypatch.setattr("smallbatch.runs.heartbeat.time.time", lambda: 1070.0)
    voice.say(at_once=True, epoch=3)
    assert (read_word(path).since, read_word(path).spoken, read_word(path).epoch) == (1000.0, 1070.0, 3)
