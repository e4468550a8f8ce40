"""What `check` says of how runs will be trained is what the trainer does."""

import pytest
import torch
from helpers import PROJECT, a_run
from helpers.own_models import DATASET

from smallbatch.data.prepared import read
from smallbatch.training import training_description as module
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native import library
from smallbatch.training.own_models.spec import BUILT_IN, SLOWER
from smallbatch.training.trainer import LaneTrainer
from smallbatch.training.training_description import describe_planned_training

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
    said = describe_planned_training(run, DATASET.shape, DATASET.classes, CPU)
    assert said == words or words is None
    by_torch = isinstance(LaneTrainer([run, run], read(data_folder), CPU).engine, EagerEngine)
    assert by_torch == (said == BY_TORCH)


def test_other_losses_are_torch_s():
    planned = describe_planned_training(a_run(loss="mse", metrics=("r2",)), DATASET.shape, DATASET.classes, CPU)
    assert planned == BY_TORCH


COST = "since it draws; that takes 1.2 to 5.6 times as long as in lanes on a processor"


@pytest.mark.parametrize(
    ("device", "recipe", "how"),
    [
        ("cpu", {}, "by torch"),
        ("cuda", {}, "by torch as a CUDA graph"),
        ("cuda", {"optimizer": "torch:RMSprop"},
         "by torch, operation by operation (not as a CUDA graph, since torch:RMSprop updates with numbers of the "
         "host)"),
    ],
)  # fmt: skip
def test_of_a_model_that_is_trained_alone_the_reason_and_the_cost_are_said(device, recipe, how, monkeypatch):
    monkeypatch.setattr(module, "suitability", lambda *_: BUILT_IN._replace(why_alone="it draws"))
    said = describe_planned_training(a_run(**recipe), DATASET.shape, DATASET.classes, torch.device(device))
    unknown = ", and on a GPU was not measured" if device == "cuda" else ""
    assert said == f"one run after the other, {how}, {COST}{unknown}"


def test_several_runs_by_torch_have_recorded_steps_on_a_gpu():
    recipe = {"loss": "mse", "metrics": ("r2",)}
    said = describe_planned_training(a_run(**recipe), DATASET.shape, DATASET.classes, torch.device("cuda"))
    assert said == f"{BY_TORCH} as a CUDA graph"


def test_the_cost_is_the_least_and_the_most_that_was_measured():
    """In the table of models that were trained both ways."""
    text = (PROJECT / "docs" / "speed.md").read_text(encoding="utf-8")
    table = text.split("## Models of your own")[1].split("Not in lanes")[0]
    rows = [line.split("|")[2:-1] for line in table.splitlines() if line.startswith("| ") and "m = 2" not in line]
    ratios = [float(ratio) for row in rows if "---" not in row[0] for cell in row for ratio in cell.split("/")]
    least, most = min(ratios), max(ratios)
    assert len(ratios) == 45 and SLOWER.startswith(f"takes {least} to {most} times as long as in lanes on a processor")
    assert f"takes {least} to {most} times as long as lanes" in (PROJECT / "docs" / "study.md").read_text(
        encoding="utf-8"
    )
