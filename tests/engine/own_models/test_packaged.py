"""Models of installed packages, by their names there."""

import importlib.metadata

import pytest
import torch
from helpers import a_run
from torchvision.models import get_model

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.training.own_models import suitability

SMALL = "torchvision:shufflenet_v2_x0_5"

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


def test_it_is_the_packages_own_with_the_weights_of_the_seed():
    ours = models.build(SMALL, (3, 32, 32), 10, norm="own", seed=3)
    theirs = get_model("shufflenet_v2_x0_5", num_classes=10)
    assert type(ours) is type(theirs) and ours.fc.out_features == 10
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    again, other = (models.build(SMALL, (3, 32, 32), 10, norm="own", seed=seed) for seed in (3, 4))
    assert torch.equal(ours.fc.weight, again.fc.weight) and not torch.equal(ours.fc.weight, other.fc.weight)


def test_the_name_and_the_version_of_the_package_are_part_of_its_runs(monkeypatch):
    before = models.content(SMALL)
    assert before is not None and models.content("torchvision:mobilenet_v3_small") != before
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.1")
    models.content_at.cache_clear()
    assert models.content(SMALL) != before
    models.content_at.cache_clear()


def test_its_runs_have_a_name_that_is_a_folders():
    name = a_run(model=SMALL, norm="own").name("f" * 64)
    assert name.startswith("made_torchvision-shufflenet_v2_x0_5-own_m4_") and ":" not in name


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        ("torchvision:resnet81", (3, 32, 32),
         "it cannot be made (ValueError: there is no classifier of this name (did you mean 'resnet18'?))"),
        ("torchvision:ResNet18", (3, 32, 32), "there is no classifier of this name"),
        ("torchvision:a:b", (3, 32, 32), "there is no classifier of this name"),
        ("torchvision:fcn_resnet50", (3, 32, 32), "there is no classifier of this name"),
        ("torchvision:quantized_resnet18", (3, 32, 32), "there is no classifier of this name"),
        (
            SMALL,
            (1, 32, 32),
            "it cannot be made (ValueError: models of torchvision take images of 3 channels",
        ),
    ],
)  # fmt: skip
def test_what_a_package_cannot_make_is_refused_in_one_line(model, shape, words):
    with pytest.raises(UserError) as caught:
        models.build(model, shape, 10, norm="own")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_of_other_classifiers_within_a_model_none_gives_logits():
    model = models.build("torchvision:googlenet", (3, 32, 32), 10, norm="own").train()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_package_that_is_not_there_is_named(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"model timm:resnet10t: package timm is not installed; `pip install timm`"):
        models.content("timm:resnet10t")


@pytest.mark.slow
def test_it_is_checked_and_trained_alone():
    found = suitability(a_run(model=SMALL, norm="own").setting, (3, 32, 32), 10)
    assert not found.lanes and not found.stochastic
    with pytest.raises(UserError, match=r"norm"):
        suitability(a_run(model=SMALL, norm="none").setting, (3, 32, 32), 10)
