"""Memory: what is told before a training begins, what follows from it, and what happens when it was wrong."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PROJECT, a_run, check_fields
from torch import nn

from smallbatch import models
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed
from smallbatch.data import prepared
from smallbatch.data.public_datasets import PUBLIC_DATASETS, DatasetInfo
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints, pack
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines.native import library
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import device as devices
from smallbatch.training.resources import memory
from smallbatch.training.trainer import LaneTrainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CIFAR10 = PUBLIC_DATASETS["cifar10"]
SMALL = DatasetInfo((1, 8, 8), 4, 64, 32)
RUNS = [a_run(seed=seed, model="resnet8", norm="batch", b=2, momentum=0.5, epochs=3) for seed in range(4)]


pytestmark = pytest.mark.usefixtures("empty_cache")


def need(run, dataset=CIFAR10, device=CPU, photos=False):
    return memory.need_of(run, dataset, device, photos=photos)


def room(size, device=CPU, images_at_once="auto"):
    return memory.MemoryBudget(size, device, ALONE, SMALL, False, images_at_once)


def worked_out(shape, classes, norms):
    return nn.Sequential(
        nn.Conv2d(shape[0], 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


def test_what_is_kept_and_tested_is_that_of_a_model_worked_out_by_hand(monkeypatch):
    monkeypatch.setitem(models.MODELS, "worked-out", f"{__name__}:worked_out")
    traced = memory.trace("worked-out", "none", "all", "float32", (1, 8, 8), 4, False)
    # In floats, of one example: image 64, convolution and rectified 128 each, pooled 32, logits 4; indices are 64 bits.
    assert traced.weights == 4 * (2 * 9 + 2 + 32 * 4 + 4) and traced.others == 0
    # Of the convolution what it rectifies is kept, of pooling its indices too.
    assert traced.largest == 4 * 128 and traced.kept == 4 * (64 + 128 + 32) + 8 * 32
    # The image, and what is rectified while what it comes from is still there.
    assert traced.tested == 4 * (64 + 128 + 128)


class OtherOfMany(nn.Module):
    """Computes otherwise with more than two examples, and replaces a buffer, whose address another tensor may get."""

    def __init__(self):
        super().__init__()
        self.scale, self.last = nn.Parameter(torch.ones(64)), nn.Linear(64, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen = self.seen + 1
        y = x.flatten(1) * self.scale
        return self.last(y.sin() if len(x) > 2 else y)


def test_what_is_kept_of_a_model_that_keeps_other_tensors_of_more_examples(monkeypatch):
    monkeypatch.setitem(models.MODELS, "other", f"{__name__}:other")
    traced = memory.trace("other", "none", "all", "float32", (1, 8, 8), 4, False, in_lanes=False)
    # Of two examples images and scaled ones, of four their sines, too.
    assert traced.kept == 4 * (4 * 3 * 64 - 2 * 2 * 64) / 2


def other(shape, classes, norms):
    return OtherOfMany()


def test_need_grows_with_all_that_takes_memory(no_kernels):
    run = a_run(batch_size=512)
    base = need(run).bytes(1, 512)
    assert need(run).bytes(2, 512) > base > need(run).bytes(1, 128)
    assert need(replace(run, batch_size=2048)).bytes(1, 2048) > base
    weights = memory.trace("alexnet", "none", "all", "float32", CIFAR10.shape, 10, False).weights
    assert need(a_run(momentum=0.9)).lane - need(a_run()).lane == weights
    assert need(a_run(precision="bf16")).example < need(a_run()).example
    for more in ({"augment_pad": 4}, {"augment_cutout": 4}, {"augment_contrast": 0.1}, {"augment_mixup": 1.0}):
        assert need(a_run(**more)).made > need(a_run()).made and need(a_run(**more)).lane > need(a_run()).lane
    assert need(a_run(variance_batch_sizes=(4, 512))).measured > 0 == need(a_run()).measured
    whole, parts = (need(a_run(norm="batch", b=b, variance_batch_sizes=(4, 512))) for b in (4, 2))
    assert whole.measured > 512 * whole.example > 0 and parts.measured < 512 * parts.example
    assert need(a_run(), photos=True).data > need(a_run()).data == 0
    assert need(a_run(), device=GPU).data == 60_000 * 3072
    floats = CIFAR10._replace(value_bytes=4)
    assert need(a_run(), floats, GPU).data == 4 * 60_000 * 3072
    assert need(a_run(), floats).made - need(a_run()).made == 3 * 3072


@pytest.mark.slow
@pytest.mark.skipif(library.compiler() is None, reason="no C++ compiler here")
def test_kernels_work_on_few_images_of_one_lane_unless_a_batch_statistic_needs_more():
    small, large = (need(a_run(batch_size=m)) for m in (16, 2048))
    assert small.data == large.data > 0 == small.example
    assert small.bytes(8, 16) - small.bytes(1, 16) < 8 * 2 * small.lane
    normed, ghosts = (need(a_run(batch_size=512, b=b, norm="batch")).data for b in (512, 16))
    assert normed > 10 * ghosts


MEASURE = """
import torch
from helpers import a_run
from smallbatch.data.public_datasets import PUBLIC_DATASETS
from smallbatch.training.resources import device as devices
from smallbatch.training.resources import memory
from smallbatch.training.trainer import LaneTrainer
from smallbatch.training.engines.native import library
from smallbatch.training.resources.throughput import benchmark_runs, random_dataset

device, dataset = devices.pick("cpu"), PUBLIC_DATASETS["cifar10"]
data, run = random_dataset(dataset, 512), a_run(model="resnet8", norm="batch", batch_size=256, b=256)
needed = memory.need_of(run, dataset, device, photos=False).bytes(2, 256)
devices.reset_peak_memory(device)
before = devices.current_memory()
training = LaneTrainer(benchmark_runs(run, 2), data, device)
training.train_block(training.plan(), 2)
devices.release_memory(device)
training.test_split(training.loader.test_batches)
print(needed / (devices.peak_memory(device) - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
@pytest.mark.parametrize("compiler", [os.environ.get("CXX", ""), "none-such"], ids=["kernels", "torch"])
def test_what_is_reported_is_about_what_is_taken(compiler):
    paths = ":".join(str(PROJECT / part) for part in ("workflow", "tests"))
    command = [sys.executable, "-c", MEASURE]
    told = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths, "CXX": compiler}, capture_output=True, text=True, check=True
    ).stdout
    assert 0.9 < float(told) < 2.5


def test_as_many_lanes_as_fit(monkeypatch):
    whole = need(RUNS[0], SMALL)
    assert room(whole.bytes(3, 4)).lanes_that_fit(RUNS) == (3, "auto")
    assert room(whole.bytes(3, 4) - 1).lanes_that_fit(RUNS) == (2, "auto")
    assert room(whole.bytes(9, 4)).lanes_that_fit(RUNS) == (4, "auto")


def test_where_one_lane_does_not_fit_its_images_are_taken_in_parts_on_the_cpu_alone(no_kernels):
    run = a_run(batch_size=8192, b=1024, model="resnet8", norm="batch")
    whole = need(run, SMALL)
    size = whole.bytes(1, 4096)
    assert room(size).lanes_that_fit([run]) == (1, 4096)
    assert room(size, images_at_once=2048).lanes_that_fit([run]) == (1, 2048)
    assert room(size, GPU).lanes_that_fit([run]) == (1, "auto")
    least = whole.bytes(1, 1024)
    assert room(least).lanes_that_fit([run]) == (1, 1024)
    with pytest.raises(
        UserError, match=r"m=8192, b=1024 needs up to \d+ MB.* --set-resources train:mem_mb=\d+"
    ) as told:
        room(least - 1).lanes_that_fit([run])
    assert "\n" not in str(told.value)


def test_what_there_is(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda device: 8_000_000_000)
    monkeypatch.setattr(devices, "current_memory", lambda: 500_000_000)
    assert memory.free_for(CPU, 2000, 1, 4) == 1_500_000_000
    assert memory.free_for(CPU, 6000, 2, 4) == 1_500_000_000  # torchrun has a share
    assert memory.free_for(CPU, None, 1, 4) == 2_000_000_000
    assert memory.free_for(CPU, None, 8, 4) == 1_000_000_000
    assert memory.free_for(GPU, 2000, 1, 4) == 8_000_000_000


def test_a_control_group_limits_what_is_free(monkeypatch, tmp_path):
    files = {
        "proc/self/cgroup": "0::/jobs/one\n",
        "proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
        "sys/fs/cgroup/jobs/one/memory.max": "max\n",
        "sys/fs/cgroup/jobs/memory.max": "5000000\n",
        "sys/fs/cgroup/jobs/memory.current": "3000000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert devices.free_memory(CPU) == 2_000_000
    (tmp_path / "sys/fs/cgroup/jobs/memory.max").unlink()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert devices.free_memory(CPU) == min(8_000_000 * 1024, physical)


def stored(results, data_folder, run):
    return RunStore(results).find(run, prepared.read(data_folder).meta.fingerprint)


@pytest.mark.slow
def test_a_pack_keeps_to_its_memory_and_says_so(data_folder, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pack, "free_for", lambda *arguments: need(RUNS[0], SMALL).bytes(2, 4))
    train_pack(RUNS, data_folder, tmp_path, lanes=4)
    assert [stored(tmp_path, data_folder, run).outcome.lanes for run in RUNS] == [2, 2, 2, 2]
    assert "2 lanes: needs up to" in caplog.text


def test_too_little_memory_is_reported_before_anything_is_trained(data_folder, tmp_path):
    with pytest.raises(UserError, match="out of memory: resnet8 on made, m=4, b=2"):
        train_pack(RUNS, data_folder, tmp_path, memory_mb=1)
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture
def small_device(monkeypatch):
    """Lanes of which more than `held[0]` run out of memory in the second epoch; gives the trainings that began."""
    train_block, restore = LaneTrainer.train_block, LaneTrainer.restore
    held, began = [2], []

    def block(self, plan, end):
        if len(self.state.runs) > held[0] and self.state.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_block(self, plan, end)

    def noting(self, state):
        restore(self, state)
        began.append((len(self.state.runs), self.state.steps_done))

    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(LaneTrainer, "train_block", block)
    monkeypatch.setattr(LaneTrainer, "restore", noting)
    return held, began


def check_outcomes(data_folder, results, expected_lanes):
    """All runs are there and are what they are on a larger device, but for rounding."""
    train_pack(RUNS, data_folder, results.parent / "whole", lanes=4)
    for run in RUNS:
        ours, theirs = (stored(place, data_folder, run).outcome for place in (results, results.parent / "whole"))
        assert ours.lanes == expected_lanes and theirs.lanes == 4 and ours.images == theirs.images
        for mine, other in zip(ours.epochs, theirs.epochs, strict=True):
            check_fields(mine, other, rel=0.05, abs=0.05)
    assert not list(results.glob("checkpoints/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("holds", "resumed"), [(2, [(2, 16), (2, 16)]), (1, [(2, 16), (2, 16), (1, 16), (1, 16), (1, 16), (1, 16)])]
)
def test_out_of_memory_the_halves_go_on_from_where_all_were(
    holds, resumed, small_device, data_folder, tmp_path, caplog, double
):
    caplog.set_level(logging.INFO)
    held, began = small_device
    held[0] = holds
    train_pack(RUNS, data_folder, tmp_path / "small", lanes=4)
    assert sorted(began, reverse=True) == resumed
    assert "4 lanes: too large for the memory" in caplog.text
    remembered = read_sealed(cache_folder() / "lanes.json")
    assert [entry["most"] for entry in remembered.values()] == [holds]
    held[0] = 4
    check_outcomes(data_folder, tmp_path / "small", holds)


def test_what_was_remembered_is_kept_to(small_device, data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "smallbatch.training.resources.lane_count._measure", lambda run, lanes, dataset, device: 1000.0 * lanes
    )
    train_pack(RUNS, data_folder, tmp_path)
    later = [replace(run, seed=run.seed + 10) for run in RUNS]
    small_device[1].clear()
    train_pack(later, data_folder, tmp_path)
    assert small_device[1] == [] and stored(tmp_path, data_folder, later[0]).outcome.lanes == 2


@pytest.mark.slow
def test_one_lane_too_many_is_reported_in_one_line(small_device, data_folder, tmp_path):
    small_device[0][0] = 0
    with pytest.raises(UserError, match="out of memory on the device: 4 examples of each of 1 lanes") as told:
        train_pack(RUNS, data_folder, tmp_path, lanes=4)
    assert "\n" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_killed_while_halving_nothing_begins_again(stop_at, small_device, data_folder, tmp_path, monkeypatch, double):
    """Stopped before or after each of the halves' checkpoints is there, or before the whole's is removed, or after."""
    calls = []

    def stopping(function):
        def stop(self, *arguments):
            calls.append(function)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return function(self, *arguments)

        return stop

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        halve = pack.CheckpointFolder.split_in_half

        def halving(self, path, state):
            patch.setattr(Checkpoint, "save", stopping(Checkpoint.save))
            patch.setattr(Checkpoint, "remove", stopping(Checkpoint.remove))
            halve(self, path, state)
            assert len(calls) == 3
            raise KeyboardInterrupt

        patch.setattr(pack.CheckpointFolder, "split_in_half", halving)
        train_pack(RUNS, data_folder, tmp_path / "small", lanes=4)
    small_device[1].clear()
    train_pack(RUNS, data_folder, tmp_path / "small", lanes=4)
    assert all(steps == 16 for _, steps in small_device[1]) and len(small_device[1]) in (2, 3)
    small_device[0][0] = 4
    check_outcomes(data_folder, tmp_path / "small", 2)


@pytest.mark.slow
def test_a_group_begun_where_there_was_more_memory_is_halved_before_it_goes_on(
    small_device, data_folder, tmp_path, monkeypatch, double
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            pack.CheckpointFolder, "split_in_half", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        train_pack(RUNS, data_folder, tmp_path / "small", lanes=4)
    small_device[0][0] = 4
    with monkeypatch.context() as patch:
        patch.setattr(pack, "free_for", lambda *arguments: need(RUNS[0], SMALL).bytes(2, 4))
        train_pack(RUNS, data_folder, tmp_path / "small", lanes=4)
    assert small_device[1] == [(2, 16), (2, 16)]
    check_outcomes(data_folder, tmp_path / "small", 2)
