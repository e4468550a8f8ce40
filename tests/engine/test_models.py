"""Models: shapes, layers, initial weights, normalisation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

from smallbatch.models import MODELS, build
from smallbatch.models.initialisation import seed_generators
from smallbatch.models.normalisation import WINDOW, BatchNorm

SHAPES = [(1, 8, 8), (3, 32, 32), (2, 5, 11), (1, 1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_takes_every_shape(model, shape):
    logits = build(model, shape, 7, norm="batch", bn_batch_size=2).eval()(torch.randn(2, *shape))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(("norm", "layers", "count"), [("none", "all", 0), ("batch", "all", 7), ("batch", "conv", 5)])
def test_alexnet_has_the_papers_layers_and_three_bn_variants(norm, layers, count):
    model = build("alexnet", (3, 32, 32), 10, norm=norm, norm_layers=layers, bn_batch_size=2)
    convolutions = [(m.kernel_size[0], m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(5, 16), (3, 48), (3, 96), (3, 64), (3, 64)]
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [256, 256, 10]
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == count


@pytest.mark.parametrize(("model", "depth"), [("resnet8", 8), ("resnet20", 20), ("resnet32", 32)])
def test_resnets_have_their_depth(model, depth):
    layers = [m for m in build(model, (3, 32, 32), 10).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_initial_weights_are_he_normal_with_fan_in():
    weight = build("alexnet", (3, 32, 32), 10, seed=5)[0].weight
    wide = build("alexnet", (3, 32, 32), 10, seed=5)[-4].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 25)), rel=0.05)
    assert wide.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build("resnet8", (1, 8, 8), 10, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_generators_are_seeded_as_torch_does(monkeypatch):
    seed_generators(7)
    ours = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(ours, torch.rand(3)) and torch.initial_seed() == 7
    seeded = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    seed_generators(8)
    assert seeded == [8], "a GPU's generator, too"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_resnet50_equals_torchvisions_own(mode):
    ours, theirs = build("resnet50", (3, 64, 64), 7, norm="batch", bn_batch_size=4), resnet50(num_classes=7)
    for module in ours.modules():  # as they are after some training: no ones and zeros
        if isinstance(module, BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(getattr(ours, mode)()(x), getattr(theirs, mode)()(x), rtol=1e-4, atol=1e-4)


def test_resnet50_is_initialised_by_the_papers_rule():
    model = build("resnet50", (3, 64, 64), 1000, norm="batch", bn_batch_size=2, seed=3)
    for module in (model.conv1, model.layer2[0].conv2, model.layer4[2].conv3, model.fc):
        fan_in = module.weight[0].numel()
        assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    assert not model.fc.bias.any()
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert len(norms) == 53 and all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_resnet50_without_normalisation_has_none():
    kinds = {type(m) for m in build("resnet50", (3, 32, 32), 10).modules()}
    assert nn.Identity in kinds and not kinds & {BatchNorm, nn.BatchNorm2d, nn.GroupNorm}


def test_batch_norm_equals_torchs_on_whole_batches():
    x = torch.randn(64, 3, 4, 4)
    ours, theirs = BatchNorm(3, 64), nn.BatchNorm2d(3, momentum=64 / WINDOW)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_sub_batches_are_normalised_on_their_own():
    x = torch.randn(6, 3, 4, 4)
    norm = BatchNorm(3, 2)
    parts = [F.batch_norm(part, None, None, training=True) for part in x.split(2)]
    torch.testing.assert_close(norm(x), torch.cat(parts))
    momentum = 6 / WINDOW
    means = torch.stack([part.mean((0, 2, 3)) for part in x.split(2)]).mean(0)
    torch.testing.assert_close(norm.running_mean, momentum * means)


def test_group_norm_takes_eight_channels_together():
    model = build("alexnet", (1, 8, 8), 10, norm="group")
    assert [m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)] == [2, 6, 12, 8, 8, 32, 32]


def test_running_statistics_of_a_batch_larger_than_their_window_are_its_own():
    x = torch.randn(2 * WINDOW, 3)
    norm = BatchNorm(3, 2 * WINDOW)
    norm(x)
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    torch.testing.assert_close(norm.running_var, x.var(0))
