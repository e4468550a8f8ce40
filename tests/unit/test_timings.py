"""What `cost` measured, kept for the jobs that come."""

import time
from datetime import date

import pytest
from helpers import a_run

from smallbatch.core import environment
from smallbatch.core.files import read_sealed
from smallbatch.estimate.timings import Kind, Measured, Timing, Timings, images, kind_of

ALEXNET = Kind("alexnet", "none", "all", False, "float32", "made")
# 100 training images, 50 test images; an image takes 4 s at m = 2, 1 s at m = 8.
MEASURED = Measured(100, 50, {2: Timing(4.0, 1.0, 1000), 8: Timing(1.0, 1.0, 4000)})


def test_a_run_takes_what_its_images_take():
    run = a_run(epochs=2)
    assert kind_of(run.setting) == ALEXNET
    assert images(run.setting, 4, 100, 50) == (200, 100)
    assert MEASURED.seconds(run.setting, 8) == pytest.approx(200 * 1 + 100 * 1)
    assert MEASURED.seconds(run.setting, 4) == pytest.approx(200 * 2.5 + 100 * 1)  # half-way, in powers of two
    assert MEASURED.seconds(run.setting, 1) == pytest.approx(200 * 4 + 100 * 1)


def test_a_kind_is_what_decides_about_speed():
    other = a_run(model="resnet8", norm="batch", norm_layers="conv", momentum=0.5, precision="bf16", data="other")
    assert kind_of(other.setting) == Kind("resnet8", "batch", "conv", True, "bf16", "other")
    assert kind_of(a_run(optimizer="adamw", loss="binary").setting)[-2:] == ("adamw", "binary")
    assert kind_of(a_run(loss="mse", loss_function="a.py:b").setting).loss == "a.py:b"


def test_speeds_in_words():
    timings = Timings({ALEXNET: MEASURED}, "a device")
    words = ", about 0.25 images/s at m = 2 and 1 images/s at m = 8 a process"
    assert timings.words([a_run(batch_size=8), a_run(batch_size=2), a_run(batch_size=4)]) == words
    fast = Timings({ALEXNET: Measured(100, 50, {2: Timing(1 / 1536, 1.0, 1000)})}, "a device")
    assert fast.words([a_run(batch_size=2)]) == ", about 1,500 images/s at m = 2 a process"
    assert timings.words([a_run(model="resnet8")]) == ""


def test_part_of_the_images_and_held_out_ones_count():
    assert images(a_run(epochs=3, train_images=60).setting, 4, 100, 50) == (180, 150)
    assert images(a_run(epochs=3, selection="validation").setting, 4, 100, 50) == (270, 180)
    # Of 90 images 22 mini-batches of 4 an epoch: 45 updates are two epochs and one update of a third.
    budget = {"epochs": 0, "selection": "validation"}
    assert images(a_run(steps=45, **budget).setting, 4, 100, 50) == (180, 180)
    assert images(a_run(images=179, **budget).setting, 4, 100, 50) == (176, 120)


def test_memory_grows_beyond_what_was_measured():
    assert [MEASURED.at(m).memory for m in (2, 5, 8, 32)] == [1000, 2500, 4000, 16000]


def test_a_pack_takes_what_its_runs_take_and_the_memory_of_its_largest():
    timings = Timings({ALEXNET: MEASURED}, "a device")
    runs = [a_run(batch_size=m, seed=seed) for m in (2, 8) for seed in (1, 2, 3)]
    assert timings.know(runs) and not timings.know([a_run(model="resnet8")])
    assert timings.seconds(runs) == pytest.approx(3 * (900 + 300)) and timings.memory(runs) == 4000
    assert timings.memory(runs[:1]) == 1000


def test_what_is_written_is_read_and_what_is_damaged_named_and_done_without(tmp_path, caplog):
    path = tmp_path / "results" / "cost.json"
    assert (Timings.read(path).kinds, Timings.read(path).device) == ({}, "")
    Timings({ALEXNET: MEASURED}, "a device").write(path)
    again = Timings.read(path)
    assert again.kinds == {ALEXNET: MEASURED} and again.device == "a device"
    said = read_sealed(path)
    assert said["date"] == date.today().isoformat() and said["torch"] == environment.describe()["torch"]
    edited = path.read_text().replace('"train": 1', '"train": 2')
    assert edited != path.read_text()
    for damage in (edited, '{"kinds": [{}], "device": "x"}', "[]", "{"):
        path.write_text(damage)
        assert (Timings.read(path).kinds, Timings.read(path).device) == ({}, "")
    path.unlink()
    path.mkdir()
    assert not Timings.read(path).kinds
    assert len(caplog.messages) == 9
    assert all(f"{path}: " in said and "until `snakemake cost` makes" in said for said in caplog.messages)


def test_the_order_of_batch_sizes_in_a_file_means_nothing(tmp_path):
    turned = Measured(100, 50, dict(reversed(MEASURED.timings.items())))
    Timings({ALEXNET: turned}, "a device").write(tmp_path / "cost.json")
    assert Timings.read(tmp_path / "cost.json").seconds([a_run(batch_size=4, epochs=2)]) == pytest.approx(600)


def test_ten_thousand_runs_are_reckoned_at_once():
    timings = Timings({ALEXNET: MEASURED}, "a device")
    packs = [[a_run(batch_size=2 ** (1 + i % 11), seed=i) for i in range(40)] for _ in range(250)]
    started = time.process_time()
    for pack in packs:
        timings.seconds(pack), timings.memory(pack)
    assert time.process_time() - started < 0.1
