"""How many lanes: the search, what is remembered of it, and who asks."""

import json
import logging
import multiprocessing
import os
from dataclasses import fields, replace

import pytest
import torch
from helpers import a_run

from smallbatch.core.environment import cache_folder
from smallbatch.core.files import read_sealed
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import lane_count

CPU = torch.device("cpu")
DATASET = DatasetInfo((1, 8, 8), 4, 64, 32)


pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def measured(monkeypatch, no_kernels):
    """Lanes that were measured; their images/s come from `measured.speeds`, and 1000 a lane where that has none."""

    class Measured(list):
        def __init__(self):
            super().__init__()
            self.speeds = {}

        def __call__(self, run, lanes, dataset, device):
            self.append(lanes)
            return self.speeds.get(lanes, 1000.0 * lanes)

    measured = Measured()
    monkeypatch.setattr(lane_count, "_measure", measured)
    return measured


def choose(run, count, processors=2):
    return lane_count.best_lane_count(run, count, DATASET, CPU, processors)


@pytest.mark.parametrize(
    ("count", "speeds", "tried", "best"),
    [
        (1, {}, [], 1),
        (13, {}, [1, 2, 4, 8, 13], 13),
        (8, {}, [1, 2, 4, 8], 8),
        (100, {}, [1, 2, 4, 8, 16], 16),
        (16, {2: 900}, [1, 2], 1),  # clearly slower: no more is tried
        (16, {2: 1500, 4: 1520}, [1, 2, 4, 8, 16], 16),
        (16, {2: 1500, 4: 1520, 8: 1540}, [1, 2, 4, 8], 2),  # two in vain
        (16, dict.fromkeys((1, 2, 4, 8, 16), 1000), [1, 2, 4], 1),
        (16, {1: 159}, [1], 1),  # a step of 4 takes more than 25 ms
        (16, {1: 161, 2: 319}, [1, 2], 2),
        (16, {2: 0}, [1, 2], 1),  # does not fit
    ],
)
def test_the_search_goes_up_while_there_is_hope(count, speeds, tried, best, measured):
    measured.speeds = speeds
    assert choose(a_run(), count) == best and measured == tried


@pytest.mark.parametrize(("module", "function"), [("native", "layout_of"), ("triton", "graph_of")])
@pytest.mark.parametrize(("count", "most", "best"), [(1, 64, 1), (13, 64, 13), (100, 64, 16), (13, 5, 5)])
def test_where_kernels_train_nothing_is_measured(count, most, best, module, function, measured, monkeypatch):
    monkeypatch.setattr(lane_count.native, "layout_of", lambda *arguments: None)
    monkeypatch.setattr(getattr(lane_count, module), function, lambda *arguments: "a layout or a graph")
    lane_count.save_limit(lane_count.training_kind(a_run(), DATASET, CPU, 2), most)
    assert choose(a_run(), count) == best and measured == []


def test_what_was_measured_is_remembered_logged_and_shared_by_rows_of_other_lengths(measured, caplog):
    caplog.set_level(logging.INFO)
    measured.speeds = {2: 1990, 4: 3000, 8: 2000}
    assert choose(a_run(), 10) == 4
    assert "4 lanes are best (1,000, 1,990, 3,000, 2,000 images/s with 1, 2, 4, 8 lanes)" in caplog.text
    assert choose(a_run(seed=7, base_lr=2**-3, epochs=9, selection="validation"), 10) == 4
    assert "as measured before" in caplog.text
    assert choose(a_run(), 2) == 2
    assert measured == [1, 2, 4, 8]


def test_all_that_decides_speed_is_distinguished(measured):
    run = a_run(norm="batch", b=2)
    kinds = [
        run,
        a_run(norm="batch", b=4),
        a_run(norm="group"),
        a_run(norm="batch", b=2, norm_layers="conv"),
        a_run(norm="batch", b=2, momentum=0.9),
        a_run(norm="batch", b=2, precision="bf16"),
        a_run(norm="batch", b=2, model="resnet8"),
        a_run(norm="batch", b=2, batch_size=8),
    ]
    for other in kinds:
        choose(other, 2)
    choose(run, 2, processors=3)
    lane_count.best_lane_count(run, 2, DatasetInfo((3, 8, 8), 4, 64, 32), CPU, 2)
    lane_count.best_lane_count(run, 2, DatasetInfo((1, 8, 8), 5, 64, 32), CPU, 2)
    assert measured == [1, 2] * 11
    assert {one.name for one in fields(lane_count.TrainingKind)} >= {"device", "torch", "code"}


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"KEY": 3}',
        '{"KEY": {"throughputs": {"two": 3}, "most": 4}}',
        '{"KEY": {"throughputs": {}}}',
    ],
)
def test_a_damaged_memory_counts_as_forgotten_is_named_and_mended(damage, measured, caplog):
    key = lane_count.training_kind(a_run(), DATASET, CPU, 2).key
    file = cache_folder() / "lanes.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(damage.replace('"KEY"', json.dumps(key)))
    assert choose(a_run(), 2) == 2 and measured == [1, 2]
    assert f"{file}: " in caplog.text and "speeds are measured again" in caplog.text
    assert choose(a_run(), 2) == 2 and measured == [1, 2]
    assert file.with_name("lanes.json.damaged-1").read_text() == damage.replace('"KEY"', json.dumps(key))


def test_an_edited_speed_and_what_stands_in_place_of_the_memory_are_noticed(measured, caplog):
    file = cache_folder() / "lanes.json"
    choose(a_run(), 2)
    whole = file.read_text()
    file.write_text(whole.replace('"most": 64', '"most": 65'))
    assert file.read_text() != whole
    choose(a_run(), 2)
    file.unlink()
    os.mkfifo(file)
    choose(a_run(), 2)
    file.unlink()
    file.mkdir()
    choose(a_run(), 2)
    assert measured == [1, 2] * 4 and file.read_text() == whole
    reasons = "its content does not fit its digest", "it is no file", "it is a folder"
    said = [message for message in caplog.messages if "speeds are measured again" in message]
    assert len(said) == 3 and all(reason in message for reason, message in zip(reasons, said, strict=True))


def test_what_others_remember_stays_and_the_oldest_is_dropped(measured, monkeypatch):
    monkeypatch.setattr(lane_count, "MAX_KINDS", 2)
    for m in (2, 4, 8):
        choose(a_run(batch_size=m), 2)
    entries = read_sealed(cache_folder() / "lanes.json")
    assert [json.loads(key)["m"] for key in entries] == [4, 8]


def _remember_alone(ms):
    for m in ms:
        lane_count.save_throughputs(
            lane_count.training_kind(a_run(batch_size=m), DATASET, CPU, 2), lane_count.CachedThroughputs({1: 1.0})
        )


def test_processes_that_remember_at_the_same_time_lose_nothing():
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_remember_alone, args=(range(start, 41, 4),)) for start in range(1, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert len(read_sealed(cache_folder() / "lanes.json")) == 40


def test_without_a_cache_it_goes_on(measured, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose(a_run(), 2) == 2
    assert "will not be remembered" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(lane_count.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert choose(a_run(), 2) == 2


def test_the_cache_lies_where_the_system_has_such(monkeypatch):
    assert str(cache_folder().parent) == os.environ["XDG_CACHE_HOME"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert str(cache_folder()) == os.path.join("/somewhere", ".cache", "smallbatch")
    monkeypatch.setattr("sys.platform", "darwin")
    assert str(cache_folder()) == os.path.join("/somewhere", "Library", "Caches", "smallbatch")


@pytest.mark.slow
def test_lanes_are_really_measured():
    assert lane_count._measure(a_run(), 2, DATASET, CPU) > 0


def test_lanes_that_do_not_fit_count_as_not_moving(monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(lane_count, "best_training_speed", too_much)
    assert lane_count._measure(a_run(), 2, DATASET, CPU) == 0


@pytest.mark.slow
def test_a_pack_asks_for_rows_that_lack_runs_alone_and_a_number_overrides(measured, data_folder, tmp_path):
    runs = [a_run(seed=seed, batch_size=m) for m in (4, 8) for seed in (1, 2)]
    train_pack(runs[:2], data_folder, tmp_path, lanes=1)
    assert measured == []
    train_pack(runs, data_folder, tmp_path)
    assert measured == [1, 2]
    train_pack([replace(run, seed=run.seed + 5) for run in runs], data_folder, tmp_path)
    assert measured == [1, 2, 1, 2]
