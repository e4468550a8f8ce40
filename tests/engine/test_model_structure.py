"""A model's structure is built and traced once for each kind of training; initial weights are built once a seed."""

import collections
import shutil

import pytest
import torch
from helpers import a_run

from smallbatch.models import initialisation
from smallbatch.training import checkpoints
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engines import cached_models
from smallbatch.training.engines.trace import Graph, Unsupported
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import memory

RUNS = [a_run(seed=seed, base_lr=lr, model="resnet8", norm="batch", b=2) for seed in (1, 2) for lr in (2**-9, 2**-8)]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.fixture
def made(monkeypatch):
    """How many models were built, and how many traced."""
    counts, seeded, trace = collections.Counter(), initialisation.seeded, Graph.__init__

    def built(seed):
        counts["built"] += 1
        return seeded(seed)

    def traced(graph, model, shape):
        counts["traced"] += 1
        trace(graph, model, shape)

    monkeypatch.setattr(initialisation, "seeded", built)
    monkeypatch.setattr(Graph, "__init__", traced)
    for cached in (cached_models._build, cached_models._trace, memory.trace):
        cached.cache_clear()
    return counts


@pytest.mark.skipif(COMPILER is None, reason="without kernels nothing is traced")
def test_a_group_of_lanes_is_built_once_a_seed_and_traced_once(made, data_folder, tmp_path):
    train_pack(RUNS, data_folder, tmp_path)
    assert made == {"built": 1 + 2, "traced": 1}


def test_a_resumed_group_is_built_no_more_often(made, data_folder, tmp_path, monkeypatch):
    save = Checkpoint.save

    def stopping(checkpoint, state):
        save(checkpoint, state)
        if "model" in state:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "INTERVAL", 0.0)
        patch.setattr(Checkpoint, "save", stopping)
        train_pack(RUNS, data_folder, tmp_path)
    before = made["built"]
    assert train_pack(RUNS, data_folder, tmp_path) == 4
    assert made["built"] - before == 2


def test_what_cannot_be_traced_says_why_each_time():
    model = cached_models.model_of(a_run(norm="group"), (1, 8, 8), 4)
    for _ in range(2):
        with pytest.raises(Unsupported, match="GroupNorm"):
            cached_models.graph_of(model, (1, 8, 8))


def test_structures_differ_by_what_decides_about_them():
    one = cached_models.model_of(a_run(norm="batch", b=2), (1, 8, 8), 4)
    same = (a_run(norm="batch", b=4), a_run(norm="batch", b=2, seed=9), a_run(norm="batch", b=2, batch_size=8))
    assert all(cached_models.model_of(run, (1, 8, 8), 4) is one for run in same)
    for other in (a_run(), a_run(norm="batch", b=1), a_run(norm="batch", b=2, norm_layers="conv")):
        assert cached_models.model_of(other, (1, 8, 8), 4) is not one
    assert cached_models.model_of(a_run(norm="batch", b=2), (1, 8, 8), 5) is not one


def test_a_structure_of_another_precision_is_another(double):
    torch.set_default_dtype(torch.float32)
    single = cached_models.model_of(a_run(), (1, 8, 8), 4)
    torch.set_default_dtype(torch.float64)
    assert cached_models.model_of(a_run(), (1, 8, 8), 4) is not single
