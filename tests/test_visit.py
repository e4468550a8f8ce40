"""The script for a visit to a device does on the CPU what it shall do elsewhere."""

import importlib.util

import pytest
import torch
from conftest import PROJECT

_spec = importlib.util.spec_from_file_location("visit", PROJECT / "benchmarks" / "visit.py")
visit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(visit)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return visit.noise(visit.CIFAR10, 256)


def test_lanes_are_right_and_a_resumed_training_identical(data):
    assert visit.lanes_against_alone(data, CPU, "alexnet", "none") < 1e-4
    assert visit.resumed_is_identical(data, CPU)


def test_speed_is_of_all_lanes_together(data):
    assert visit.training_speed(visit.runs(2, 2), data, CPU, 0.1) > 10


def test_a_difference_is_seen():
    assert visit.furthest({"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([2.0, 4.0])}) == 0.25
