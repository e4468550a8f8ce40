"""The script for a visit to a device does on the CPU what it shall do elsewhere."""

import json
import sys

import pytest
import torch

import visit

CPU, DATA = torch.device("cpu"), visit.random_dataset
PACKAGES = ("torch", "torchvision", "pytorch-lightning")
ENVIRONMENT = {"device": "An abacus", "commit": "1234", "python": "3.0", **dict.fromkeys(PACKAGES, "1.0")}


@pytest.fixture(scope="module")
def data():
    return visit.random_dataset(visit.CIFAR10, 256)


def test_lanes_are_right_and_a_resumed_training_identical(data):
    assert visit.lanes_against_alone(data, CPU, "alexnet", "none") < 1e-4
    assert visit.resumed_is_identical(data, CPU)


def test_what_was_found_is_written_and_reported(tmp_path, monkeypatch, capsys):
    def run(cells, methods, device, file, **options):
        file.write_text(json.dumps([[cell.name for cell in cells], list(methods), options["known"]]))
        return {"device": "cpu", "cores": 1, "date": "today", "cells": [], "environment": ENVIRONMENT}

    apart = {"lane against alone": {"alexnet none": 2e-6}, "resumed identical": False}
    monkeypatch.setattr(visit, "checks", lambda device: {"checks": apart})
    monkeypatch.setattr(visit, "device_of", lambda name: {"device": name})
    monkeypatch.setattr(visit, "run", run)
    arguments = ["--device", "cpu", "--out", str(tmp_path / "visit.json"), "--cells", "2"]
    monkeypatch.setattr(sys, "argv", ["visit.py", *arguments])
    visit.main()
    cells, methods, known = json.loads((tmp_path / "visit.json").read_text())
    assert cells == ["alexnet-m2", "alexnet-m8"] and known == {"checks": apart}
    assert methods == ["usual-threads", "usual-cores", "engine", "peak"]
    said = capsys.readouterr().out
    assert "An abacus" in said and "resumed DIFFERENT" in said and "2.0e-06" in said


def test_a_difference_is_seen():
    assert visit.furthest({"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([2.0, 4.0])}) == 0.25


def a_row(m, kernels, **changed):
    row = visit.Row("alexnet", "none", m, 13, 13)._replace(**changed)
    return {
        "row": row._asdict(),
        "kernels": kernels,
        "torch": 100.0,
        "launches": 33,
        "tests": 2e6,
        "tests by torch": 1.0,
    }


@pytest.mark.slow
def test_kernels_are_raced_and_written(tmp_path, capsys):
    row = visit.Row("resnet8", "batch", 2, 2, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visit, "random_dataset", lambda dataset, images: DATA(dataset, min(images, 32)))
        found = visit.race(CPU, tmp_path / "race.json", [row], 0.01, 5.0)
    assert json.loads((tmp_path / "race.json").read_text()) == found
    assert {name for errors in found["apart"].values() for name in errors} == {"kernels", "torch"}
    assert all(error < 0.02 for errors in found["apart"].values() for error in errors.values())
    [one] = found["rows"]
    assert min(one["kernels"], one["torch"], one["tests"]) > 0
    assert "resnet8" in visit.of_race(found) and "resnet8" in capsys.readouterr().out


def test_a_race_tells_figure_1_by_rows_that_were_raced_and_those_between():
    rows = [a_row(2, 1e5), a_row(8, 4e5), a_row(2, 9e9, lanes=64), a_row(4, 9e9, model="resnet20")]
    minutes = visit.figure1_minutes([*rows, {"row": a_row(16, 1.0)["row"], "error": "out of memory"}])
    assert minutes == pytest.approx(
        {m: 13 * 82 * (50_000 / speed + 10_000 / 2e6) / 60 for m, speed in {2: 1e5, 4: 2e5, 8: 4e5}.items()}
    )
    assert "3 of 11 rows" in visit.of_race({"apart": {}, "rows": rows})
