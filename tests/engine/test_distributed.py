"""Two processes that share each mini-batch equal one, with and without batch statistics over both."""

import contextlib
import logging
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import a_run, check_fields, training_settings
from helpers.processes import in_processes
from safetensors.torch import load_file

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.models.normalisation import WINDOW, BatchNorm
from smallbatch.runs.heartbeat import DONE, FAILED, read_heartbeat
from smallbatch.runs.records import METRICS_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints, distributed, launch, variance
from smallbatch.training.distributed import World
from smallbatch.training.engines import eager
from smallbatch.training.pack import train_pack


def all_kinds():
    """Pairs of lanes: without batch statistics, with such in each process, and over both; the last has a wild lane."""
    kinds = [
        {"model": "alexnet", "momentum": 0.9, "augment_flip": True, "base_lr": 2**-11, "augment_mixup": 1.0},
        {
            "model": "resnet8",
            "norm": "batch",
            "batch_size": 8,
            "b": 2,
            "selection": "validation",
            "variance_batch_sizes": (4, 8),
        },
        {"model": "resnet8", "norm": "batch", "batch_size": 8, "b": 8, "variance_batch_sizes": (4, 8)},
        {"model": "alexnet", "variance_batch_sizes": (2, 4)},
    ]
    pairs = [a_run(**kind, seed=seed, weight_decay=0.1) for kind in kinds for seed in (1, 2)]
    return [*pairs, a_run(base_lr=2.0**40, weight_decay=0.1, variance_batch_sizes=(2, 4))]


def stored(results: Path, data_folder: Path, run):
    return RunStore(results).find(run, prepared.read(data_folder).meta.fingerprint)


def weights(results: Path, data_folder: Path, run) -> Path:
    return RunStore(results).weights(stored(results, data_folder, run))


def assert_equal(runs, data_folder: Path, one: Path, two: Path) -> None:
    for run in runs:
        ours, theirs = (stored(results, data_folder, run).outcome for results in (one, two))
        assert ours.diverged_at == theirs.diverged_at and ours.images == theirs.images
        for measured in ("epochs", "variance"):
            for mine, other in zip(getattr(ours, measured), getattr(theirs, measured), strict=True):
                check_fields(mine, other, rel=1e-5)
        if ours.diverged_at is None:
            mine, other = (load_file(weights(results, data_folder, run)) for results in (one, two))
            for key in mine:
                torch.testing.assert_close(mine[key], other[key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_equal_one(data_folder, tmp_path, double, monkeypatch):
    monkeypatch.setattr(variance, "MIN_MINI_BATCHES", 4)
    options = {"keep_weights": "all", "device": "cpu", "lanes": 2}
    runs = all_kinds()
    train_pack(runs, data_folder, tmp_path / "one", **options)
    in_processes(2, lambda: train_pack(runs, data_folder, tmp_path / "two", **options))
    assert_equal(runs, data_folder, tmp_path / "one", tmp_path / "two")
    assert stored(tmp_path / "two", data_folder, runs[-1]).outcome.diverged_at


def test_alone_in_its_lane_and_in_parts(data_folder, tmp_path, double):
    runs = [a_run(model="resnet8", norm="batch", batch_size=8, b=2), a_run(model="alexnet", batch_size=8)]
    train_pack(runs, data_folder, tmp_path / "one", keep_weights="all")
    options = {"keep_weights": "all", "lanes": 1, "images_at_once": 2}
    in_processes(2, lambda: train_pack(runs, data_folder, tmp_path / "two", **options))
    assert_equal(runs, data_folder, tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_stopped_and_resumed_is_bit_identical(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(eager, "BLOCK_STEPS", 2)
    runs = [a_run(model="resnet8", norm="batch", batch_size=8, b=4, momentum=0.5, seed=seed) for seed in (1, 2)]

    broadcast, calls = World.broadcast, []

    def stopping(self, make):
        calls.append(make)
        if len(calls) == 14:
            os._exit(0)
        return broadcast(self, make)

    def stop_in_the_middle():
        monkeypatch.setattr(World, "broadcast", stopping)
        train_pack(runs, data_folder, tmp_path / "stopped")

    in_processes(2, train_pack, runs, data_folder, tmp_path / "whole")
    in_processes(2, stop_in_the_middle)
    state = checkpoints.Checkpoint(next(tmp_path.glob("stopped/checkpoints/*/*.pt"))).load()
    assert 0 < state["epoch"] * 8 + state["step"] < 16
    in_processes(2, train_pack, runs, data_folder, tmp_path / "stopped")
    for files in (f"runs/*/{METRICS_FILE}", "weights/*.safetensors"):
        whole = list((tmp_path / "whole").glob(files))
        assert whole
        for path in whole:
            assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes()


def _synchronised_equals_whole():
    world, _ = distributed.join("cpu")
    torch.manual_seed(0)
    x, weights = torch.randn(6, 3, 2, 2) + 5, torch.randn(6, 3, 2, 2)
    whole, shared = BatchNorm(3, 6), BatchNorm(3, 3)
    shared.group, shared.momentum = world.group(2), 6 / WINDOW
    ours, theirs = x.clone().requires_grad_(), x.chunk(2)[world.rank].clone().requires_grad_()
    y, its = whole(ours), shared(theirs)
    (y * weights).sum().backward()
    (its * weights.chunk(2)[world.rank]).sum().backward()
    torch.testing.assert_close(its, y.chunk(2)[world.rank])
    torch.testing.assert_close(theirs.grad, ours.grad.chunk(2)[world.rank])
    torch.testing.assert_close(shared.running_var, whole.running_var)
    torch.testing.assert_close(shared.running_mean, whole.running_mean)
    torch.testing.assert_close(world.sum(shared.weight.grad), whole.weight.grad)
    assert world.minimum(7 - world.rank) == 6 and world.broadcast(lambda: os.getpid()) == world.broadcast(
        lambda: os.getpid()
    )


def test_statistics_over_two_processes_are_those_of_all_examples(double):
    in_processes(2, _synchronised_equals_whole)


@pytest.mark.parametrize(
    ("size", "m", "b", "norm", "words"),
    [
        (3, 8, 8, "none", "3 is not allowed; allowed: numbers that divide a mini-batch of 8 evenly"),
        (2, 12, 4, "batch", "2 is not allowed; .* whole batches of 4 .*: of a mini-batch of 12 it would have 6"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(size, m, b, norm, words):
    with pytest.raises(UserError, match=words):
        distributed.check(a_run(batch_size=m, b=b, norm=norm), World(0, size))


def test_what_can_be_shared_out_passes():
    for b in (2, 4, 8):
        distributed.check(a_run(batch_size=8, b=b, norm="batch"), World(0, 2))


@pytest.mark.slow
def test_launched_through_torchrun(data_folder, tmp_path, caplog, peers_elsewhere):
    """A whole training, which waits for no peers of another one; then a refusal in one line."""
    caplog.set_level(logging.INFO)
    runs, heartbeat = [a_run(seed=seed, batch_size=8) for seed in (1, 2)], tmp_path / "heartbeat.json"
    assert launch.train(runs, data_folder, tmp_path, training_settings(processes=2), heartbeat=heartbeat) == 2
    said = read_heartbeat(heartbeat)
    assert (said.state, said.trained, said.images, said.process) == (DONE, 256, 256, os.getpid())
    assert "accuracy" in caplog.text
    assert all(not math.isnan(stored(tmp_path, data_folder, run).outcome.epochs[-1].test_loss) for run in runs)
    with pytest.raises(UserError, match=r"^config/config.yaml: training.processes: 2 is not allowed"):
        launch.train([a_run(batch_size=3)], data_folder, tmp_path, training_settings(processes=2), heartbeat=heartbeat)
    assert (
        read_heartbeat(heartbeat).state == FAILED and "processes: 2 is not allowed" in read_heartbeat(heartbeat).reason
    )


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_says_so(data_folder, tmp_path):
    killed: list[float] = []
    threading.Thread(target=_kill_rank_1, args=(tmp_path / "checkpoints", killed), daemon=True).start()
    with pytest.raises(UserError, match=r"ended early \(by SIGKILL\)") as told:
        run = a_run(batch_size=8, epochs=100_000)
        launch.train([run], data_folder, tmp_path, training_settings(processes=2))
    assert "\n" not in str(told.value) and time.monotonic() - killed[0] < 60


def _kill_rank_1(checkpoint_folder: Path, killed: list[float]) -> None:
    """Kill, once training has begun, the process of rank 1 among this one's grandchildren, and note when."""
    while not list(checkpoint_folder.glob("*/*.pt")):
        time.sleep(0.1)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if b"RANK=1" in variables and _parent(_parent(int(folder.name))) == os.getpid():
                killed.append(time.monotonic())
                os.kill(int(folder.name), signal.SIGKILL)


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
