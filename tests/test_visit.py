"""The script for a visit to a device does on the CPU what it shall do elsewhere."""

import json
import sys

import pytest
import torch

import visit

CPU = torch.device("cpu")
PACKAGES = ("torch", "torchvision", "pytorch-lightning")
ENVIRONMENT = {"device": "An abacus", "commit": "1234", "python": "3.0", **dict.fromkeys(PACKAGES, "1.0")}


@pytest.fixture(scope="module")
def data():
    return visit.noise(visit.CIFAR10, 256)


def test_lanes_are_right_and_a_resumed_training_identical(data):
    assert visit.lanes_against_alone(data, CPU, "alexnet", "none") < 1e-4
    assert visit.resumed_is_identical(data, CPU)


def test_what_was_found_is_written_and_told(tmp_path, monkeypatch, capsys):
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
