"""The benchmark compares like with like, and its arithmetic, table and plot are right. No speed is judged here."""

import json
import re

import pytest
import torch
from helpers import PROJECT, a_run
from torch import nn

from smallbatch.core.errors import UserError
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study
from speed import bench, cells, figure1, measure, report, trainers
from speed.cells import CELLS, Cell, Target
from speed.pictures import Pictures, pictures


class Enough(Exception):
    """Of a trainer's epochs."""


def losses(trainer, work: trainers.Work, epochs: int = 1, **options) -> list[float]:
    """The mean losses of a trainer's first epochs."""
    found = []

    def told(loss, *_):
        found.append(loss)
        if len(found) == epochs:
            raise Enough

    with pytest.raises(Enough):
        trainer(work, told, **options)
    return found


@pytest.mark.parametrize("group", ["digits", "resnet8"])
def test_the_usual_loop_starts_like_the_engine_and_learns_like_it(group):
    work = trainers.Work(Cell(group, 8), images=8)  # one step an epoch, so that the order does not matter
    ours, theirs = (losses(trainer, work, epochs=3) for trainer in (trainers.engine, trainers.usual))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[2] < ours[0] and ours[0] > 1  # a loss of nothing would be equal, too


def test_another_seed_starts_elsewhere():
    one, other = (losses(trainers.usual, trainers.Work(Cell("digits", 8), 8, seed)) for seed in (1, 2))
    assert one[0] != pytest.approx(other[0], rel=1e-3)


def test_lightning_starts_like_the_engine(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / ".venv" / "peers")
    pytest.importorskip("pytorch_lightning", reason="a peer: `make bench` installs it")
    work = trainers.Work(Cell("digits", 8), images=8)
    assert losses(trainers.lightning, work, 2) == pytest.approx(losses(trainers.engine, work, 2), rel=1e-4)


def test_the_compiled_model_is_the_one_that_trains(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    losses(trainers.usual, trainers.Work(Cell("digits", 8), images=8), compiled=True)
    assert [type(model) for model in compiled] == [nn.Sequential]


def test_lanes_have_rates_and_seeds_of_their_own_and_processes_have_no_run_in_common():
    one, other = (trainers.lane_runs(trainers.Work(Cell("digits", 2), 8, seed, lanes=13)) for seed in (1, 101))
    assert len({run.seed for run in one + other}) == 26
    assert len({run.base_lr for run in one}) == 13 and max(run.learning_rate for run in one) == trainers.ETA
    assert {run.setting for run in one} == {one[0].setting}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_images_are_normalised_alike_with_torchvision_and_without(shape, monkeypatch):
    data = pictures(shape, 20)
    theirs = torch.stack([image for image, _ in Pictures(data)])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.meta.mean, data.meta.std))
    torch.testing.assert_close(theirs, (torch.from_numpy(data.train.images) / 255 - mean) / std)
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    torch.testing.assert_close(torch.stack([image for image, _ in Pictures(data)]), theirs)


def test_operations_are_those_counted_by_hand():
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    layers = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    forward = 2 * 4 * 3 * 9 * 64, 2 * 256 * 10
    # The gradients of weights cost as much again, those of inputs too, but nobody needs those of the images.
    assert trainers.flops_of_step(layers, (3, 8, 8), 5) == 5 * (2 * forward[0] + 3 * forward[1])


def test_operations_of_the_reduced_alexnet():
    group = cells.GROUPS["alexnet"]
    counted = trainers.flops_of_step(trainers.model_of(Cell("alexnet", 2), 1), group.shape, 2) / 2
    assert counted == pytest.approx(69e6, rel=0.01)


def test_a_lap_lasts_from_the_first_begin_to_the_last_end():
    answers = [{"began": 10.0, "ended": 12.0, "amount": 300}, {"began": 11.0, "ended": 15.0, "amount": 200}]
    assert measure.lap(answers) == (100.0, 5.0)


def rates(**found) -> dict:
    return {name.replace("_", "-"): {"rates": list(values)} for name, values in found.items()}


def a_cell(batch_size: int = 2, flops: float = 2.0, **methods) -> dict:
    cell = Cell("alexnet", batch_size)
    told = {"cell": cell.name, **cell._asdict(), "lanes": 8, "images": 100, "flops": flops}
    return told | {"target": cell.target("cpu")._asdict(), "methods": methods}


MADE = a_cell(
    **rates(
        usual_threads=(100, 300, 100), usual_cores=(200, 200, 200), engine=(400, 600, 1000), peak=(4000, 4000, 4000)
    ),
    compiled={"rates": [250, 900, 250], "seconds": [1.0, 2.0, 3.0], "first_seconds": 22.0},
    lightning={"error": "pytorch_lightning is not installed"},
)


def test_ratios_are_taken_within_a_round_against_the_better_form():
    assert report.ratio(MADE, ("usual-threads", "usual-cores")) == (2, 2, 5)  # 400/200, 600/300, 1000/200
    assert report.ratio(MADE, ("usual-threads", "usual-cores", "compiled", "lightning")) == (1.6, 600 / 900, 4)
    assert report.ratio(MADE, ("lightning",)) is None
    assert report.share_of_peak(MADE) == pytest.approx(0.15 * 2)
    assert report.compile_seconds(MADE) == 20
    assert report.medians(MADE)["usual-threads"] == 100


@pytest.mark.parametrize(
    ("measured", "words"), [(None, "-"), (1.64, "missed"), (1.65, "met"), (3.49, "met"), (3.5, "aim met")]
)
def test_verdicts(measured, words):
    assert report.verdict(measured, Cell("alexnet", 2).target("cpu")._asdict()) == words


def test_targets_are_those_of_the_plan():
    assert Cell("digits", 2).target("cpu") == Target(3.5, 8)
    assert Cell("resnet20", 32).target("cpu") == Cell("digits", 512).target("cpu") == Target(1.25, 1.6)
    assert Cell("resnet8", 8).target("cpu") == Target(1)
    assert Cell("alexnet", 2).target("cuda") == Target(150, 300)


def results(*measured: dict) -> dict:
    packages = dict.fromkeys(("torch", "torchvision", "python"), "1.0") | {"pytorch-lightning": "not installed"}
    return {
        "device": "cpu", "cores": 2, "date": "2031-02-03", "settings": {"rounds": 3}, "cells": list(measured),
        "environment": {"device": "An abacus", "commit": "0123456789abcdef", **packages},
    }  # fmt: skip


def test_the_table_says_it_all():
    failed = a_cell(32, engine={"error": "ended with -9: Killed"})
    text = report.table(json.loads(json.dumps(results(MADE, failed))))
    head, _, first, second = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    row = dict(zip(head, first, strict=True))
    assert (row["m"], row["lanes"], row["this engine"], row["PyTorch Lightning"]) == ("2", "8", "600", "not installed")
    assert (row["ratio"], row["at least"], row["aim"], row[""]) == ("2.00 (2.00-5.00)", "1.65", "3.5", "met")
    assert (row["of peak"], row["compile (s)"], row["over the best other"]) == ("30%", "20", "1.60")
    assert row["fastest"] == "this engine"
    row = dict(zip(head, second, strict=True))
    assert (row["this engine"], row["ratio"], row[""], row["usual loop, 1 process"]) == ("failed", "-", "-", "-")
    assert "An abacus, 2 cores" in text and "2031-02-03" in text and "0123456789ab" in text


def test_on_a_gpu_the_table_says_whether_an_expert_wins(tmp_path):
    cell = a_cell(**rates(usual_cores=(1, 1, 1), jax=(9, 20, 20), engine=(10, 10, 10), peak=(99, 99, 99)))
    cell["methods"]["grouped"] = {"error": "no answer within 90 s"}
    found = results(cell) | {"device": "cuda"}
    head, _, row = [line.strip("| ").split(" | ") for line in report.table(found).splitlines() if line.startswith("|")]
    row = dict(zip(head, row, strict=True))
    assert (row["JAX, vmap over runs"], row["over the best other"]) == ("20", "0.50")
    assert row["fastest"] == "JAX, vmap over runs" and row["torch.compile, runs as groups, CUDA graphs"] == "failed"
    assert report.peers(found).split()[-6:] == ["alexnet-m2", "8", "20", "failed", "10", "jax"]
    assert report._lines([cell])["jax"] == [(2, 20)]
    assert " JAX, vmap over runs " in report.table(results(cell))  # as a visit on the CPU measures it, for a trial
    assert [file.name for file in report.write(results(cell), tmp_path / "a.json")] == ["a.md", "a.svg", "a.png"]


def test_table_and_plot_are_written_from_the_results_alone(tmp_path):
    other = a_cell(8, **rates(usual_cores=(10, 10, 10), engine=(15, 15, 15)))
    files = report.write(results(MADE, other), tmp_path / "speed.json")
    assert [file.name for file in files] == ["speed.md", "speed.svg", "speed.png"]
    first = [file.read_bytes() for file in files]
    report.write(results(MADE, other), tmp_path / "speed.json")
    assert [file.read_bytes() for file in files] == first
    assert report._lines([MADE, other])["usual"] == [(2, 200), (8, 10)]
    assert report.write(results(), tmp_path / "none.json")  # nothing measured yet is no error
    assert " ".join(report.short(results(other)).split()[-8:]) == "alexnet-m8 8 10 15 1.50 1.65 missed -"


def test_cells_are_chosen_by_group_and_name():
    assert [cell.name for cell in cells.selected(["digits-m2", "resnet8"])][-2:] == ["resnet8-m512", "digits-m2"]
    assert cells.selected([]) == CELLS
    with pytest.raises(UserError, match=r"alexnet-m3.*allowed.*alexnet-m4"):
        cells.selected(["alexnet-m3"])
    with pytest.raises(UserError, match=r"usual-loaders.*allowed.*usual-cores"):
        cells.methods("cpu", ["usual-loaders"])


def test_figure_1_is_the_one_of_the_paper_study():
    config = read_yaml(PROJECT / "config" / "config.yaml") | {"study": "paper"}
    e = load_study(config).experiments["alexnet"]
    assert (e.setting, e.batch_sizes, len(e.base_lrs)) == (figure1.SETTING, figure1.BATCH_SIZES, cells.ROW)


def test_figure_1_is_extrapolated_from_speeds():
    row = {"batch_size": 2, "lanes": 13, "training": 50_000.0, "testing": 10_000.0}
    found = figure1.extrapolated([row, row | {"training": 25_000.0}])
    assert found["runs"] == 26 and found["seconds"] == 13 * 82 * (2 + 3)
    assert "diverged: 88.8 minutes" in report.figure1(found) and "| 2 | 13 | 25,000 |" in report.figure1(found)


def test_runs_in_lock_step_are_trained_by_those_who_can(monkeypatch):
    jobs = []
    monkeypatch.setattr(measure, "Process", lambda job: jobs.append(job))
    for method in cells.methods("cuda").values():
        measure.Team(method, {"cell": ["digits", 8], "lanes": 13})
    assert {job["task"]: job["lanes"] for job in jobs} == {
        "usual": 1, "lightning": 1, "vmapped": 13, "grouped": 13, "engine": 13, "products": 1,
    }  # fmt: skip


JOB = {"task": "usual", "cell": ["digits", 8], "device": "cpu", "images": 8, "lanes": 1, "seed": 1, "options": {}}


@pytest.mark.slow
def test_a_process_trains_when_it_is_asked_to_and_says_why_it_cannot():
    (core, *_) = measure.cores()
    process = measure.Process(JOB | {"cores": [core]})
    broken = measure.Process(JOB | {"cores": [core], "task": "no_such_trainer"})
    try:
        assert process.hear(100) == {"ready": True}
        with pytest.raises(measure.Failed, match=r"no answer within 0\.1 s"):
            process.hear(0.1)
        for _ in range(2):
            process.say("go")
            found = process.hear()
            assert found["amount"] == 8 and 0 < found["ended"] - found["began"] < 60 and found["loss"] > 0
        with pytest.raises(measure.Failed, match="no_such_trainer"):
            broken.hear()
            broken.say("go")
            broken.hear()
    finally:
        process.end()
        broken.end()


def test_a_method_that_fails_is_left_out_and_the_others_go_on(monkeypatch):
    class Team:
        def __init__(self, method, job):
            self.method, self.laps = method, 0

        def lap(self, patience):
            assert patience == 90
            self.laps += 1
            if self.method.trainer == "lightning" or (self.method.trainer == "products" and self.laps == 3):
                raise measure.Failed("it is not installed")
            return measure.Lap(10.0 * self.laps, 1.0)

        def end(self):
            pass

    monkeypatch.setattr(measure, "Team", Team)
    monkeypatch.setattr(measure, "ask", lambda *_, **__: [{"lanes": 4, "images": 16, "flops": 1.0}])
    lines = []
    chosen = cells.methods("cpu", ["usual-cores", "lightning", "engine", "peak"])
    found = measure.measure(
        Cell("digits", 2), chosen, device="cpu", rounds=3, seconds=1, tell=lines.append, patience=90
    )  # fmt: skip
    assert found["methods"]["engine"]["rates"] == [20, 30, 40]  # the first lap warms up
    assert found["methods"]["lightning"] == found["methods"]["peak"] == {"error": "it is not installed"}
    assert len(lines) == 2 and lines[0].startswith("digits-m2: PyTorch Lightning: ")


def test_what_was_measured_is_kept_when_time_is_over(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(bench, "measure", lambda *_, **__: MADE)
    lines = []
    bench.run(
        CELLS, cells.methods("cpu"), {"device": "cpu", "words": {"device": "An abacus"}}, tmp_path / "speed.json",
        minutes=2, tell=lines.append, known={"checks": "well"},
    )  # fmt: skip
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert len(kept["cells"]) == 2 and kept["checks"] == "well"
    assert (tmp_path / "speed.md").exists() and lines[-1].startswith("2 minutes are over: left out are alexnet-m8")


@pytest.mark.parametrize(("beside", "asked"), [("peers", "pytorch-lightning"), ("peers", "jax"), ("mutants", "mutmut")])
def test_what_is_installed_beside_the_project_is_locked_and_brings_nothing_twice(beside, asked):
    lock = (PROJECT / "envs" / f"{beside}.txt").read_text()
    assert "://" not in lock and "--index-url" not in lock and "--find-links" not in lock
    blocks = re.split(r"\n(?=\S)", lock.strip())
    names = {re.match(r"[\w.-]+", block)[0] for block in blocks}
    ours = set(re.findall(r"^([\w.-]+)==", (PROJECT / "envs" / "requirements.txt").read_text(), re.MULTILINE))
    assert all("--hash=sha256:" in block for block in blocks)
    assert asked in names and not names & ours


def test_the_library_chooses_lanes_for_a_cell(tmp_path, monkeypatch, no_kernels):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert 1 <= trainers.lanes_chosen(a_run(batch_size=32), (1, 8, 8), "cpu") <= 13
    assert (tmp_path / "smallbatch" / "lanes.json").exists()
