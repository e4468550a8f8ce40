"""What a study takes, from speeds that are made up, by values worked out by hand."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import a_run

from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.estimate import cost, device_benchmark
from smallbatch.estimate.cost import estimate, format_estimate
from smallbatch.estimate.timings import Timing, kind_of
from smallbatch.study.experiments import Experiment, Study
from smallbatch.study.rates import BaseLr
from smallbatch.training import own_models
from smallbatch.training.resources import device as devices
from smallbatch.training.resources import lane_count, memory, processor_binding, throughput

SETTING = a_run(epochs=2).setting
RATES = (BaseLr(2**-8), BaseLr(2**-6))
PLAIN = Experiment("plain", SETTING, (2, 8), None, RATES, (1, 2))
BN = Experiment("bn", replace(SETTING, norm="batch", epochs=3), (8,), (2,), (), (1, 2), ("plain",))
PART = Experiment("part", replace(SETTING, train_images=40, selection="validation"), (4,), None, RATES[:1], (1,))
FIGURES = {
    "fig04": {"kind": "convergence", "title": "Four", "experiments": ["plain"], "base_lr": 2**-8},
    "fig01": {"kind": "accuracy", "title": "One", "experiments": ["plain"]},
    "fig13": {"kind": "bn-batch", "title": "Thirteen", "experiments": ["bn"]},
    "fig15": {"kind": "best", "title": "Fifteen", "experiments": ["plain", "bn"]},
}
STUDY = Study("f", "mine", "Mine", "", {e.name: e for e in (PLAIN, BN, PART)}, FIGURES)
DATASET = DatasetInfo((1, 8, 8), 4, 100, 50)
WEIGHTS = {"none": 10**6, "batch": 2 * 10**6}
ASKED = []


def measured(run, dataset, most, m, *, device, lanes):
    """At m = 2 a training image takes 4 s, at 8 and more 1 s; a test image half a second; with BN all thrice."""
    assert (device, lanes, dataset) == ("cpu", 3, DATASET)
    slower = 3 if run.setting.norm == "batch" else 1
    training = {2: 4.0}.get(m, 1.0) * slower
    return Timing(training, 0.5 * slower, 1000 * m), WEIGHTS[run.setting.norm]


@pytest.fixture
def made_up(monkeypatch):
    """Two processes train at the same time."""
    monkeypatch.setattr(device_benchmark, "name_and_processes", described)
    monkeypatch.setattr(device_benchmark, "measure", measured)


def described(device):
    return f"a {device}", 2


def estimated(keep_weights="best"):
    table, timings = estimate(STUDY, {"made": DATASET}, device="cpu", lanes=3, keep_weights=keep_weights)
    return table.set_index("figure"), timings


# Seconds of a run in one process: 2 epochs of 100 training and 50 test images at 4 s and 0.5 s; ...
OF_M2, OF_M8 = 200 * 4 + 100 * 0.5, 200 * 1 + 100 * 0.5
OF_BN = 300 * 3 + 150 * 1.5
# ... and of 40 images a tenth is held out; m = 4 is half-way from 2 to 8 in powers of two.
OF_PART = 2 * 36 * 2.5 + 2 * (50 + 4) * 0.5


def test_each_figure_is_charged_with_the_runs_that_no_figure_before_it_shows(made_up):
    table, _ = estimated()
    assert list(table.index) == ["fig04", "fig01", "fig13", "fig15", "none", "all"]
    assert table["runs"].tolist() == [4, 4, 2, 0, 1, 11], "nothing is left for fig15"
    assert table["gradients"].tolist() == [800, 800, 600, 0, 72, 2272]
    charged = cost.charged_figures(STUDY)
    assert {run.base_lr for run, figure in charged.items() if figure == "fig04"} == {2**-8}


def test_hours_are_those_with_all_processes_at_work(made_up):
    table, _ = estimated()
    plain, part = 2 * (OF_M2 + OF_M8) / 2 / 3600, OF_PART / 2 / 3600
    bn = 2 * OF_BN / 2 / 3600
    assert table["hours"].tolist() == pytest.approx([plain, plain, bn, 0, part, 2 * plain + bn + part])
    assert plain == pytest.approx(1100 / 3600) and bn == pytest.approx(1125 / 3600)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("all", [4, 4, 2, 1]), ("best", [2, 2, 1, 1]), ("none", [0, 0, 0, 0])],  # of the two seeds of a cell the best
)
def test_megabytes_are_records_epochs_and_the_weights_that_are_kept(keep, kept, made_up):
    table, _ = estimated(keep)
    records = [4 * (2000 + 2 * 90), 4 * (2000 + 2 * 90), 2 * (2000 + 3 * 90), 2000 + 2 * 90]
    weights = [4e6, 4e6, 8e6, 4e6]
    expected = [(record + count * each) / 1e6 for record, count, each in zip(records, kept, weights, strict=True)]
    expected.insert(3, 0)  # fig15, whose runs others show
    assert table["megabytes"].tolist() == pytest.approx([*expected, sum(expected)], rel=1e-12)


def test_speeds_are_those_of_each_kind_by_batch_size(made_up):
    _, timings = estimated()
    assert timings.device == "a cpu"
    assert set(timings.kinds) == {kind_of(PLAIN.setting), kind_of(BN.setting)}
    known = timings.kinds[kind_of(BN.setting)]
    assert (known.train, known.test) == (100, 50)
    assert known.timings == {m: Timing(12.0 if m == 2 else 3.0, 1.5, 1000 * m) for m in (2, 8, 32, 128, 512)}


def test_runs_that_an_experiment_shares_with_those_whose_rates_it_takes_are_charged_once(made_up):
    grid = Experiment("grid", BN.setting, (8,), None, RATES, (1, 2))
    taken = replace(BN, bn_batch_sizes=(2, 8), best_of=("grid",))
    figures = {
        "fig08": {"kind": "accuracy", "title": "Eight", "experiments": ["grid"]},
        "fig13": {"kind": "bn-batch", "title": "Thirteen", "experiments": ["bn"]},
    }
    study = replace(STUDY, experiments={"grid": grid, "bn": taken}, figures=figures)
    table, _ = estimate(study, {"made": DATASET}, device="cpu", lanes=3, keep_weights="all")
    # Whichever of the two rates is best: with b = 8 = m the runs are of the grid, with b = 2 there are two seeds more.
    assert dict(zip(table["figure"], table["runs"], strict=True)) == {"fig08": 4, "fig13": 2, "all": 6}


def test_a_figure_of_runs_that_those_before_it_show_costs_nothing_more(made_up):
    again = {"kind": "best", "title": "Again", "experiments": ["grid"]}
    figures = {"fig08": {"kind": "accuracy", "title": "Eight", "experiments": ["grid"]}, "again": again}
    study = replace(
        STUDY, experiments={"grid": Experiment("grid", BN.setting, (8,), None, RATES, (1,))}, figures=figures
    )
    table, _ = estimate(study, {"made": DATASET}, device="cpu", lanes=3, keep_weights="all")
    assert table["figure"].tolist() == ["fig08", "again", "all"]
    assert table["runs"].tolist() == [2, 0, 2] and table["hours"][1] == 0


def test_as_many_are_measured_at_the_same_time_as_will_train(made_up, monkeypatch):
    pools = []

    def pool(workers, context):
        pools.append((workers, context.get_start_method()))
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(device_benchmark, "ProcessPoolExecutor", pool)
    estimated()
    assert pools == [(1, "fork"), (2, "fork")], "the first describes the device"


def lanes_asked(run, dataset, most, m, *, device, lanes):
    return Timing(float(most), 1.0, 0), 1


def test_each_kind_is_measured_with_the_lanes_that_its_rows_have_and_keeps_the_slowest(made_up, monkeypatch):
    monkeypatch.setattr(device_benchmark, "measure", lanes_asked)
    _, timings = estimated()
    # A row of `plain` has 2 rates and 2 seeds; that of `part` one of each, and is of the same kind.
    assert timings.kinds[kind_of(PLAIN.setting)].timings[2].training == 1
    assert timings.kinds[kind_of(BN.setting)].timings[2].training == 2


def sizes_asked(shape, made_up, monkeypatch):
    monkeypatch.setattr(device_benchmark, "measure", lanes_asked)
    table, timings = estimate(
        replace(STUDY, experiments={"plain": PLAIN}, figures={}),
        {"made": DatasetInfo(shape, 4, 100, 50)},
        device="cpu", lanes="auto", keep_weights="all",
    )  # fmt: skip
    assert table["figure"].tolist() == ["none", "all"]
    return list(next(iter(timings.kinds.values())).timings)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    # A million values of pixels (2^20) are 341 images of CIFAR, 6 of ImageNet; m = 2 is always measured.
    [((3, 32, 32), [2, 8, 32, 128]), ((3, 224, 224), [2]), ((1, 2**9, 2**8), [2]), ((3, 1024, 1024), [2])],
)
def test_mini_batches_of_up_to_a_million_values_are_measured(shape, sizes, made_up, monkeypatch):
    assert sizes_asked(shape, made_up, monkeypatch) == sizes


def test_the_table_is_written_with_units_that_read_well(made_up):
    table, _ = estimated("all")
    lines = format_estimate(STUDY, table.reset_index()).splitlines()
    assert lines[0] == "Study mine, from nothing, on this device:"
    assert [line.split() for line in lines[1:]] == [
        ["figure", "runs", "gradients", "hours", "megabytes"],
        ["fig04", "4", "8.00e+02", "0.31", "16.0"],
        ["fig01", "4", "8.00e+02", "0.31", "16.0"],
        ["fig13", "2", "6.00e+02", "0.31", "16.0"],
        ["fig15", "0", "0.00e+00", "0.00", "0.0"],
        ["none", "1", "7.20e+01", "0.03", "4.0"],
        ["all", "11", "2.27e+03", "0.96", "52.0"],
    ]
    large = table.reset_index().assign(runs=12345, hours=1234.5, megabytes=2345.67)
    assert format_estimate(STUDY, large).splitlines()[1 + 1].split()[1:] == [
        "12,345",
        "8.00e+02",
        "1,234.50",
        "2,345.7",
    ]


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 7), ("cuda", 1)])
def test_as_many_processes_train_as_there_are_processors_and_one_on_a_gpu(device, at_once, monkeypatch):
    monkeypatch.setattr(devices, "pick", torch.device)
    monkeypatch.setattr(devices, "describe", lambda chosen: {"device": f"a {chosen.type}", "cuda": "13"})
    monkeypatch.setattr(device_benchmark, "processors", lambda: 7)
    assert device_benchmark.name_and_processes(device) == (f"a {device}", at_once)


class Machine:
    """Trains 10 and tests 40 images/s; says what it was asked."""

    def __init__(self, monkeypatch, known: bool = True) -> None:
        self.known, self.asked, self.alone = known, [], []
        for module, name in (
            (throughput, "training_speed"),
            (throughput, "testing_speed"),
            (throughput, "parameter_count"),
        ):
            monkeypatch.setattr(module, name, getattr(self, name))
        monkeypatch.setattr(memory, "need_of", self.need_of)
        monkeypatch.setattr(lane_count, "best_lane_count", self.best_lane_count)
        monkeypatch.setattr(own_models, "max_lanes", self.max_lanes)
        monkeypatch.setattr(processor_binding, "bound_processor", self.bound_processor)
        monkeypatch.setattr(devices, "pick", torch.device)
        monkeypatch.setattr(devices, "current_memory", lambda: 1000)
        monkeypatch.setattr(device_benchmark, "processors", lambda: 7)

    def bound_processor(self):
        self.alone.append(True)
        return contextlib.nullcontext()

    def training_speed(self, runs, data, device):
        self.asked.append((len(runs), runs[0].batch_size, runs[0].bn_batch_size, data.meta.train, device.type))
        return 10.0

    def testing_speed(self, runs, data, device):
        assert (len(runs), runs[0].batch_size, runs[0].bn_batch_size, data.meta.train, device.type) == self.asked[-1]
        return 40.0

    def parameter_count(self, run, data):
        assert (run.batch_size, data.meta.train) == (self.asked[-1][1], self.asked[-1][3])
        return 77

    def max_lanes(self, setting, dataset, most):
        assert (setting.data, dataset) == ("made", DATASET)
        return most

    def best_lane_count(self, run, most, dataset, device, at_work):
        assert (run.batch_size, dataset, device.type, at_work) == (8, DATASET, "cpu", 7)
        return min(most, 5)

    def need_of(self, run, dataset, device, *, photos):
        assert dataset == DATASET and photos is run.setting.augment_resized and device.type == "cpu"
        return SimpleNamespace(bytes=lambda lanes, images: (100 * lanes + images) * self.known)


@pytest.mark.parametrize(("lanes", "most", "trained"), [("auto", 16, 5), ("auto", 3, 3), (4, 16, 4), (4, 2, 2)])
def test_a_measurement_says_seconds_an_image_of_training_and_of_testing(lanes, most, trained, monkeypatch):
    machine = Machine(monkeypatch)
    speed, weights = device_benchmark.measure(a_run(batch_size=2, b=2), DATASET, most, 8, device="cpu", lanes=lanes)
    assert speed == Timing(training=0.1, testing=0.025, memory=1000 + 100 * trained + 8)
    assert weights == 77 and machine.alone
    assert machine.asked == [(trained, 8, 8, 64, "cpu")], "at least 64 images"


def test_a_gpu_has_memory_of_its_own_and_of_memory_that_is_not_known_nothing_is_said(monkeypatch):
    machine = Machine(monkeypatch, known=False)
    speed, _ = device_benchmark.measure(a_run(augment_resized=True), DATASET, 1, 128, device="cpu", lanes=1)
    assert speed.memory == 0 and machine.asked[-1][3] == 128 and machine.alone.pop()
    machine = Machine(monkeypatch)
    speed, _ = device_benchmark.measure(a_run(), DATASET, 1, 8, device="cuda", lanes=1)
    assert speed == Timing(0.1, 0.025, 0) and not machine.alone


def test_the_probe_counts_the_images_of_all_lanes():
    runs = throughput.benchmark_runs(a_run(batch_size=4, seed=3), 3)
    assert len(runs) == 3 and runs[0].base_lr == 2**-16 and runs[0].setting.data == "noise"
    data = throughput.random_dataset(DATASET, 64)
    assert (data.meta.train, data.meta.test, data.meta.classes) == (64, 64, ("0", "1", "2", "3"))
    assert throughput._mean([(100, 1.0), (500, 2.0)]) == 200  # images by seconds, and not the mean of two speeds
    pieces = throughput._training_pieces(runs, data, torch.device("cpu"), 1e-9)
    (images, seconds), *more = pieces
    assert images % (4 * 3) == 0 and seconds > 0 and not more
    # Convolutions from 1 over 16, 48, 96, 64 to 64 channels, of 5x5 and else 3x3; on one pixel 256, 256 and 4 outputs.
    convolutions = 16 * 26 + 48 * (16 * 9 + 1) + 96 * (48 * 9 + 1) + 64 * (96 * 9 + 1) + 64 * (64 * 9 + 1)
    assert throughput.parameter_count(runs[0], data) == convolutions + 256 * 65 + 256 * 257 + 4 * 257
