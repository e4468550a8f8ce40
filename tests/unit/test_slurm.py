"""SLURM's commands as a training calls them; tests/slurm has a cluster."""

import datetime
import logging
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from helpers import PROJECT

from smallbatch.cluster import slurm_jobs as slurm
from smallbatch.core.errors import Stopped

STOP = Stopped("SIGTERM", "epoch 3, step 7")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder at the head of PATH for commands made here, which note their arguments in `calls`."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "COMMAND_TIMEOUT_S", 1.5)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def make(folder: Path, name: str, script: str) -> None:
    command = folder / name
    command.write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/calls\n{script}\n')
    command.chmod(0o755)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def stop() -> None:
    with pytest.raises(Stopped), slurm.requeued_when_stopped():
        raise STOP


def test_a_running_job_that_is_stopped_goes_again(commands, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    make(commands, "squeue", "echo RUNNING")
    # As SLURM does, once the job is back in its queue.
    make(commands, "scontrol", "kill -TERM $PPID $$")
    stop()
    assert calls(commands) == ["squeue --noheader --jobs=17 --format=%T", "scontrol requeue 17"]
    assert "SLURM has put job 17 back into its queue" in caplog.text


def test_of_an_array_only_this_task_goes_again(commands, monkeypatch):
    for name, value in {"JOB_ID": "19", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    make(commands, "squeue", "echo RUNNING")
    make(commands, "scontrol", "")
    stop()
    assert calls(commands)[-1] == "scontrol requeue 17_2"


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_a_job_that_slurm_ends_is_left_to_it(state, commands, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    make(commands, "squeue", f"echo {state}")
    make(commands, "scontrol", "")
    stop()
    assert len(calls(commands)) == 1


def test_a_refusal_is_reported(commands, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    make(commands, "squeue", "echo RUNNING")
    make(commands, "scontrol", "echo 'Requested operation is presently disabled for job 17' >&2; exit 1")
    stop()
    assert "does not let job 17 go again: Requested operation is presently disabled for job 17" in caplog.text


def test_a_controller_that_is_away_is_asked_again(commands, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    away = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    make(commands, "squeue", f"if [ -e {commands}/asked ]; then echo RUNNING; else touch {commands}/asked; {away}; fi")
    make(commands, "scontrol", "")
    stop()
    assert [call.split()[0] for call in calls(commands)] == ["squeue", "squeue", "scontrol"]


def test_outside_slurm_nothing_is_called(commands):
    make(commands, "squeue", "")
    stop()
    with slurm.requeued_when_stopped():
        pass
    assert not calls(commands)


def test_what_is_not_stopped_is_not_requeued(commands, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    make(commands, "scontrol", "")
    with pytest.raises(ValueError), slurm.requeued_when_stopped():
        raise ValueError
    assert not calls(commands)


@pytest.mark.slow
def test_a_task_of_an_array_is_warned_before_its_time_is_over(commands, monkeypatch):
    """SLURM's own warning does not reach it."""
    for name, value in {"JOB_ID": "19", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    end = datetime.datetime.now() + datetime.timedelta(seconds=slurm.STOP_BEFORE_LIMIT_S + 1)
    make(commands, "squeue", f"echo {end:%Y-%m-%dT%H:%M:%S}")
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with slurm.requeued_when_stopped():
        time.sleep(2.5)
    assert heard == [signal.SIGTERM]
    make(commands, "squeue", "echo N/A")  # no limit
    with slurm.requeued_when_stopped():
        time.sleep(1.2)
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_both_warnings_come_at_the_same_time():
    profile = yaml.safe_load((PROJECT / "slurm" / "config.yaml").read_text())
    assert profile["set-resources"]["train"]["slurm_extra"] == f"--signal=TERM@{slurm.STOP_BEFORE_LIMIT_S}"


@pytest.mark.parametrize(
    ("partition", "has"), [(None, True), ("fast", True), ("cpu", False), ("other", True), ("nowhere", False)]
)
def test_the_gpus_of_a_partition_also_of_the_default_by_its_name(partition, has, tmp_path, monkeypatch):
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\nprintf 'cpu (null)\\nfast* gpu:a100:4\\nother gpu:2\\n'\n", encoding="utf-8")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.has_gpus(partition) == has
