"""What `check` says of how runs will be trained is what the trainer does."""

import pytest
import torch
from helpers import a_run
from helpers.own_models import DATASET

from smallbatch.data.prepared import read
from smallbatch.training.engines.eager import EagerUpdates
from smallbatch.training.engines.native import library
from smallbatch.training.how_trained import how_trained
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
BY_TORCH, BY_KERNELS = (f"several runs in lanes, by {whom}" for whom in ("torch", "the kernels of this project"))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, BY_KERNELS),
        ({"optimizer": "adamw", "betas": (0.9, 0.999)}, BY_KERNELS),
        ({"optimizer": "torch:RMSprop"}, BY_TORCH),
        ({"precision": "bf16"}, BY_TORCH),
        ({"norm": "group"}, None),
    ],
)
def test_it_is_said_who_trains(recipe, words, data_folder):
    if library.kernels() is None:
        pytest.skip("no compiler")
    run = a_run(**recipe)
    said = how_trained(run, DATASET.shape, DATASET.classes, CPU)
    assert said == words or words is None
    by_torch = isinstance(LaneTrainer([run, run], read(data_folder), CPU).updates, EagerUpdates)
    assert by_torch == (said == BY_TORCH)


def test_other_losses_are_torch_s():
    assert how_trained(a_run(loss="mse", metrics=("r2",)), DATASET.shape, DATASET.classes, CPU) == BY_TORCH


def test_a_model_that_lanes_do_not_suit_is_trained_alone(monkeypatch):
    from smallbatch.training import how_trained as module
    from smallbatch.training.own_models.spec import BUILT_IN

    alone = BUILT_IN._replace(why_alone="it draws random numbers")
    monkeypatch.setattr(module, "suitability", lambda *_: alone)
    assert how_trained(a_run(), DATASET.shape, DATASET.classes, CPU) == "one run after the other, by torch"
