"""Parts of a pack that processes train side by side."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import a_run, training_settings

from smallbatch.core.errors import Stopped, UserError
from smallbatch.runs.heartbeat import read_heartbeat
from smallbatch.runs.packs import split_by_cost
from smallbatch.runs.records import METRICS_FILE
from smallbatch.training import distributed, launch
from smallbatch.training.resources import device as devices

TWO = training_settings(side_by_side=2)


def rows(*sizes: int, epochs: int = 2):
    return [a_run(model="resnet8", batch_size=m, seed=seed, epochs=epochs) for m in sizes for seed in (1, 2)]


def files(results: Path) -> dict[str, bytes]:
    paths = [*results.rglob(METRICS_FILE), *results.rglob("*.safetensors")]
    return {str(path.relative_to(results)): path.read_bytes() for path in paths}


def test_parts_cost_about_the_same_and_keep_rows_whole():
    runs = rows(2, 4, 8, 16)  # a run costs 5, 3, 2 and 1.5
    one, two = split_by_cost(runs, 2)
    assert [sorted({run.batch_size for run in part}) for part in (one, two)] == [[2, 16], [4, 8]]
    assert len(split_by_cost(runs, 9)) == 4  # not more than rows
    # What costs nothing, being there, goes where there is less to do.
    assert [len(part) for part in split_by_cost(runs, 2, lambda run: run.batch_size == 4)] == [2, 6]


@pytest.mark.slow
def test_two_parts_train_what_one_process_does(data_folder, tmp_path):
    runs = rows(4, 8, 16)
    assert launch.train(runs, data_folder, tmp_path / "one", training_settings()) == 6
    assert launch.train(runs, data_folder, tmp_path / "two", TWO, memory_mb=4000) == 6
    assert len(files(tmp_path / "one")) == 12 and files(tmp_path / "two") == files(tmp_path / "one")
    assert launch.train(runs, data_folder, tmp_path / "two", TWO) == 0


@pytest.mark.slow
def test_a_part_that_fails_does_not_stop_the_other(data_folder, tmp_path):
    runs = rows(4, 128)  # 64 training images
    with pytest.raises(UserError, match=r"^experiment on made: batch_sizes: 128 is not allowed") as told:
        launch.train(runs, data_folder, tmp_path, TWO)
    assert "\n" not in str(told.value)
    assert len(list(tmp_path.glob("runs/*_m4_*/run.json"))) == 2


@pytest.mark.slow
def test_a_part_that_is_killed_does_not_stop_the_other(data_folder, tmp_path):
    def kill():
        with both_begun(tmp_path / "heartbeat") as (child, _):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match=r"^a process of the training ended early \(by SIGKILL\)"):
        launch.train(rows(4, 8, epochs=100), data_folder, tmp_path, TWO, heartbeat=tmp_path / "heartbeat.json")
    assert len(list(tmp_path.glob("runs/*/run.json"))) == 2


@pytest.mark.slow
def test_a_signal_stops_all_parts(data_folder, tmp_path):
    runs = rows(4, 8, epochs=100)
    launch.train(runs, data_folder, tmp_path / "one", training_settings())

    def stop():
        with both_begun(tmp_path / "heartbeat"):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(
        Stopped, match=r"^stopped by SIGTERM at epoch \d+, step \d+ and epoch \d+, step \d+; call again"
    ):
        launch.train(runs, data_folder, tmp_path / "two", TWO, heartbeat=tmp_path / "heartbeat.json")
    launch.train(runs, data_folder, tmp_path / "two", TWO)
    assert files(tmp_path / "two") == files(tmp_path / "one")


@contextlib.contextmanager
def both_begun(heartbeat: Path) -> Iterator[list[int]]:
    """Wait until both parts are at their updates, and halt each there until the end of the block.

    Args:
        heartbeat: of the pack, without its ending.

    Yields:
        Their processes.
    """
    halted: dict[int, int] = {}
    deadline = time.monotonic() + 120
    try:
        while len(halted) < 2 and time.monotonic() < deadline:
            for part in {0, 1} - halted.keys():
                beat = read_heartbeat(heartbeat.with_name(f"{heartbeat.name}.{part}.json"))
                if beat and beat.title:
                    halted[part] = process_of(part)
                    os.kill(halted[part], signal.SIGSTOP)
            time.sleep(0.01)
        yield [halted[part] for part in (0, 1)]
    finally:
        for process in halted.values():
            os.kill(process, signal.SIGCONT)


def process_of(part: int) -> int:
    """The process among this one's children that trains a part."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0") if parent == os.getpid() else []
            if b"LOCAL_RANK=%d" % part in variables and launch.__name__.encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no process of part {part}")


@pytest.fixture
def two_gpus(monkeypatch):
    """As if the job saw two; returns the devices that are picked."""
    picked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "pick", lambda name: picked.append(name) or torch.device("cpu"))
    return picked


@pytest.mark.parametrize(
    ("device", "picked"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_part_has_a_gpu_of_its_own(device, picked, two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    distributed.join(device)
    assert two_gpus == [picked]


def test_fewer_gpus_than_parts_are_reported_before_the_work(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        UserError, match=r"^config/config.yaml: training: 3 processes take a GPU each, .* sees 2; allowed"
    ):
        distributed.join("auto")


def test_alone_it_takes_the_device_that_is_named(two_gpus):
    distributed.join("auto")
    assert two_gpus == ["auto"]


def test_peers_of_another_training_are_not_waited_for(data_folder, tmp_path, peers_elsewhere):
    """Of a training in several processes test_launched_through_torchrun shows it."""
    assert launch.train(rows(4)[:1], data_folder, tmp_path, training_settings()) == 1
