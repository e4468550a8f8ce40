"""Models of installed packages, by their names there."""

import importlib.metadata

import pytest
import torch
from helpers import a_run
from torchvision.models import get_model

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.training import lane_layers
from smallbatch.training.distributed import ALONE
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneSGD
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


def test_arguments_are_those_of_the_packages_function():
    ours = models.build("torchvision:mobilenet_v3_small(width_mult=0.5, dropout=0)", (3, 32, 32), 10, norm="own")
    theirs = get_model("mobilenet_v3_small", num_classes=10, width_mult=0.5, dropout=0)
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert ours.classifier[2].p == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("width_mul=0.5, width_mult=0.5", r"argument width_mul=0.5 changes nothing: .*small\(width_mult=0.5\)$"),
        ("width_mult=1.0", r"argument width_mult=1.0 changes nothing: .*allowed: torchvision:mobilenet_v3_small$"),
    ],
)
def test_an_argument_that_the_package_does_not_know_is_refused_though_its_function_takes_any(given, words):
    with pytest.raises(UserError, match=words):
        suitability(a_run(model=f"torchvision:mobilenet_v3_small({given})", norm="own").setting, (3, 32, 32), 10)


PACKAGED = {
    "torchvision:alexnet": 64,
    "torchvision:convnext_tiny": 32,
    "torchvision:densenet121": 32,
    "torchvision:efficientnet_b0": 32,
    "torchvision:googlenet": 32,
    "torchvision:mnasnet0_5": 32,
    "torchvision:mobilenet_v3_small(dropout=0.5)": 32,
    "torchvision:regnet_y_400mf": 32,
    "torchvision:resnet18": 32,
    "torchvision:shufflenet_v2_x0_5": 32,
    "torchvision:squeezenet1_1": 32,
    "torchvision:swin_t(dropout=0.1)": 32,
    "timm:convnext_atto(drop_path_rate=0.2)": 32,
    "timm:ghostnet_050": 32,
    "timm:mobilenetv3_small_050": 32,
    "timm:regnetx_002": 32,
    "timm:resnet10t": 32,
    "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2)": 32,
}
"""Model -> pixels of a side; a step of each of them is trained."""


@pytest.mark.parametrize("model", PACKAGED)
def test_a_step_is_that_of_plain_torch(model):
    if model.startswith("timm:"):
        pytest.importorskip("timm")
    shape = (3, PACKAGED[model], PACKAGED[model])
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randn(4, *shape, generator=draws), torch.tensor([0, 1, 2, 0])
    ours, theirs = (models.build(model, shape, 3, norm="own", seed=1) for _ in range(2))
    network = Network(
        lane_layers.Alone(ours), batch_size=4, bn_batch_size=4, images_at_once="auto", pixels=shape[1] * shape[2],
        precision="float32", device=torch.device("cpu"), world=ALONE, splittable=False,
    )  # fmt: skip
    torch.manual_seed(2)
    [loss] = network.gradients(images, labels[:, None])
    LaneSGD(network.parameters, [0.1], 0.01, 0.0).step(1.0)
    torch.manual_seed(2)
    expected = torch.nn.functional.cross_entropy(theirs.train()(images.clone()), labels)
    expected.backward()
    torch.optim.SGD(theirs.parameters(), lr=0.1, weight_decay=0.01).step()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_it_is_checked_and_trained_alone():
    found = suitability(a_run(model=SMALL, norm="own").setting, (3, 32, 32), 10)
    assert not found.lanes and not found.stochastic
    with pytest.raises(UserError, match=r"norm"):
        suitability(a_run(model=SMALL, norm="none").setting, (3, 32, 32), 10)
