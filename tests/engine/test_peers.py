"""Lanes in JAX and in compiled torch, which a GPU's benchmark compares with, train what this engine trains."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import PROJECT

from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer
from speed import trainers
from speed.cells import Cell
from speed.pictures import pictures

CELLS = ["digits", "resnet8"]
UPDATES = 2
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def visible(monkeypatch):
    """Rates and weight decay of which a few updates show more than rounding."""
    monkeypatch.setattr(trainers, "ETA", 2.0**-4)
    monkeypatch.setattr(trainers, "WEIGHT_DECAY", 0.1)


@pytest.fixture
def jax(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # other tests are on the same GPU
    monkeypatch.syspath_prepend(PROJECT / ".venv" / "peers")
    return pytest.importorskip("jax", reason="a peer: `make bench` installs it")


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)


def work_of(group: str, device: str = "cpu") -> trainers.Work:
    """Work of one update an epoch, so that the order of the images does not matter."""
    return trainers.Work(Cell(group, 8), images=8, lanes=2, device=device)


def changes(work: trainers.Work, after: Tensors) -> Tensors:
    """What training changed of each tensor of all lanes."""
    before = trainers._stacked(work).state_dict()
    return {name: tensor.cpu() - before[name] for name, tensor in after.items()}


def ours(work: trainers.Work) -> tuple[torch.Tensor, Tensors]:
    """Losses [epochs, lanes] and changes of this engine, on the CPU."""
    training = LaneTrainer(trainers.lane_runs(work), pictures(work.shape, work.images), devices.pick("cpu"))
    losses = []
    for _ in range(UPDATES):
        training.state.step = 0
        losses.append(training.train_block(training.plan(), 1)[0])
    return torch.stack(losses), changes(work, training.state.model.state_dict())


def assert_equal(work: trainers.Work, losses: Sequence[torch.Tensor], after: Tensors, bound: float = 1e-3) -> None:
    """Assert that losses and changes are those of this engine."""
    our_losses, our_changes = ours(work)
    torch.testing.assert_close(torch.stack(tuple(losses)).cpu(), our_losses, rtol=0.1 * bound, atol=0.01 * bound)
    largest = max(change.norm() for change in our_changes.values())
    for name, change in changes(work, after).items():
        # A bias before a normalisation changes by rounding alone.
        norm = max(our_changes[name].norm(), 1e-3 * largest)
        assert (change - our_changes[name]).norm() <= bound * norm, name


def trained_in_jax(work: trainers.Work) -> tuple[list[torch.Tensor], Tensors]:
    """Losses [lanes] of each epoch and tensors of all lanes."""
    losses, lanes = zip(*islice(trainers.vmapped_epochs(work), UPDATES), strict=True)
    return list(map(torch.tensor, losses)), {
        name: torch.tensor(np.asarray(tensor)) for part in lanes[-1] for name, tensor in part.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("group", CELLS)
def test_lanes_in_jax_are_those_of_this_engine(group, jax):
    work = work_of(group)
    assert_equal(work, *trained_in_jax(work))


@pytest.mark.parametrize("group", CELLS)
def test_lanes_as_groups_are_those_of_this_engine(group, uncompiled):
    work = work_of(group)
    losses, models = zip(*islice(trainers.grouped_epochs(work), UPDATES), strict=True)
    assert_equal(work, losses, models[-1].state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("group", CELLS)
def test_on_a_gpu_lanes_in_jax_are_those_of_this_engine(group, jax):
    work = work_of(group, "cuda")
    try:
        assert_equal(work, *trained_in_jax(work), bound=1e-2)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.gpu
@pytest.mark.parametrize("group", CELLS)
def test_on_a_gpu_a_recorded_step_makes_the_updates_of_this_engine(group, uncompiled):
    devices.set_precision("float32", torch.device("cuda"))
    work = work_of(group, "cuda")
    losses, models = zip(*islice(trainers.grouped_epochs(work), UPDATES), strict=True)
    # Running statistics have seen the rehearsals of the recording, too.
    assert_equal(work, losses, dict(models[-1].named_parameters()), bound=1e-2)
