"""Optimisers of lanes make the updates of torch's own, clipped or smoothed or without decay; kernels keep up."""

import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from torch import nn
from torch.nn import functional as F

from smallbatch.data import prepared
from smallbatch.training import lane_layers
from smallbatch.training.batches import random_stream
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native import library
from smallbatch.training.engines.native.engine import NativeEngine
from smallbatch.training.metrics import MetricSums
from smallbatch.training.optimizers import optimizer_of, undecayed
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
ETAS = (0.1, 0.02)
BETAS = (0.8, 0.95)
pytestmark = pytest.mark.usefixtures("one_thread")


def a_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 3)).double()


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for theta in group["params"]:
                state, (first, second) = self.state[theta], group["betas"]
                m, g = state.get("m", torch.zeros_like(theta)), theta.grad
                c = first * m + (1 - first) * g
                theta -= group["lr"] * (torch.sign(c) + group["weight_decay"] * theta)
                state["m"] = second * m + (1 - second) * g


OPTIMIZERS = {
    "sgd": ({"momentum": 0.9}, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.1)),
    "nesterov": (
        {"momentum": 0.9},
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.1, nesterov=True),
    ),
    "adam": (
        {"betas": BETAS, "eps": 1e-3},
        lambda p, lr: torch.optim.Adam(p, lr, betas=BETAS, eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (
        {"betas": BETAS, "eps": 1e-3},
        lambda p, lr: torch.optim.AdamW(p, lr, betas=BETAS, eps=1e-3, weight_decay=0.1),
    ),
    "lion": ({"betas": BETAS}, lambda p, lr: Lion(p, lr, BETAS, 0.1)),
}


def updated(setting, factors, theirs, *, exempt=(), clip=None):
    """The parameters of two lanes by name after some updates, ours [2, ...] and those of torch for each lane."""
    stacked, models = (
        lane_layers.stack([a_model(1), a_model(2)]),
        [dict(a_model(seed).named_parameters()) for seed in (1, 2)],
    )
    ours = optimizer_of(setting, stacked, list(stacked.parameters()), ETAS)
    by = []
    for model, lr in zip(models, ETAS, strict=True):
        kept = {"params": [p for name, p in model.items() if name in exempt], "weight_decay": 0.0}
        by.append(theirs([{"params": [p for name, p in model.items() if name not in exempt]}, kept], lr))
    draws = torch.Generator().manual_seed(0)
    for factor in factors:
        for parameter in stacked.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
        gradients = {name: parameter.grad.clone() for name, parameter in stacked.named_parameters()}
        ours.step(factor)
        for lane, (model, optimizer) in enumerate(zip(models, by, strict=True)):
            for name, parameter in model.items():
                parameter.grad = gradients[name][lane].clone()
            if clip:
                nn.utils.clip_grad_norm_(model.values(), clip)
            for group in optimizer.param_groups:
                group["lr"] = ETAS[lane] * factor
            optimizer.step()
    return dict(stacked.named_parameters()), models


def check_equal(ours, theirs):
    for name, stacked in ours.items():
        for lane, parameters in enumerate(theirs):
            torch.testing.assert_close(stacked[lane], parameters[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_torch(name):
    more, theirs = OPTIMIZERS[name]
    setting = a_run(optimizer=name, weight_decay=0.1, **more).setting
    check_equal(*updated(setting, [1.0, 1.0, 0.5, 0.5, 0.1], theirs))


BIASES, NORMS = {"0.bias", "3.bias"}, {"1.weight", "1.bias"}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("kinds", "exempt"), [(("biases",), BIASES), (("norms",), NORMS), (("biases", "norms"), BIASES | NORMS)]
)
def test_biases_and_norms_may_be_left_out_of_weight_decay(kinds, exempt, name):
    more, theirs = OPTIMIZERS[name]
    setting = a_run(optimizer=name, weight_decay=0.1, weight_decay_excludes=kinds, **more).setting
    check_equal(*updated(setting, [1.0, 0.5], theirs, exempt=exempt))
    names = [name for name, _ in a_model(1).named_parameters()]
    assert {names[index] for index in undecayed(lane_layers.Alone(a_model(1)), kinds)} == exempt


@pytest.mark.parametrize(
    ("model", "biases", "norms"),
    [
        (nn.GRU(3, 2), {"bias_ih_l0", "bias_hh_l0"}, set()),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_bias", "out_proj.bias", "bias_k", "bias_v"}, set()),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), {"0.bias"}, {"1.weight", "1.bias"}),
    ],
)
@pytest.mark.parametrize("change", [lambda model: model, lane_layers.Alone, torch.jit.script])
def test_what_a_bias_or_a_norm_is_called(model, biases, norms, change):
    names = [name for name, _ in model.named_parameters()]
    for kinds, exempt in ((("biases",), biases), (("norms",), norms)):
        assert {names[index] for index in undecayed(change(model), kinds)} == exempt


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "torch:RMSprop"])
def test_complex_weights_are_updated_as_torch_updates_them(name, clip):
    def weights():
        return nn.ParameterList([torch.randn(3, 4, dtype=torch.complex64, generator=random_stream(1, "test"))])

    ours, theirs = lane_layers.Alone(weights()), weights()
    more, make = OPTIMIZERS.get(name, ({}, lambda p, lr: torch.optim.RMSprop(p, lr, weight_decay=0.1)))
    setting = a_run(optimizer=name, weight_decay=0.1, **({} if clip is None else {"clip_norm": clip}), **more).setting
    optimizer, other = optimizer_of(setting, ours, lane_layers.parameters_of(ours), [0.02]), make(theirs, 0.02)
    for step in range(4):
        [one], [two] = ours.model, theirs
        one.grad = torch.randn(3, 4, dtype=torch.complex64, generator=random_stream(2, "test", step))
        two.grad = one.grad.clone()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs, clip)
        ours.pass_on()
        optimizer.step(1.0)
        other.step()
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [0.5, 6.0, 100.0])
def test_gradients_are_clipped_lane_by_lane(clip, name):
    more, theirs = OPTIMIZERS[name]
    setting = a_run(optimizer=name, weight_decay=0.1, clip_norm=clip, **more).setting
    check_equal(*updated(setting, [1.0, 0.5], theirs, clip=clip))


RECIPES = [
    {"optimizer": "nesterov", "momentum": 0.9},
    {"optimizer": "adam", "betas": BETAS},
    {"optimizer": "adamw", "betas": BETAS, "label_smoothing": 0.1},
    {"optimizer": "lion", "betas": BETAS},
    {"clip_norm": 0.3, "weight_decay_excludes": ("biases",), "model": "resnet8", "norm": "batch"},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.2, "momentum": 0.5},
    {"augment_mixup": 0.4},
    {"augment_cutmix": 1.0, "label_smoothing": 0.2, "model": "resnet8", "norm": "batch", "b": 2},
]


@pytest.mark.skipif(library.compiler() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(map(str, recipe.values())))
def test_the_kernels_make_of_a_recipe_what_torch_makes(recipe, data_folder):
    data = prepared.read(data_folder)
    runs = [a_run(base_lr=2**-12, seed=seed, weight_decay=0.1, **recipe) for seed in (1, 2)]
    ours, theirs = LaneTrainer(runs, data, CPU), LaneTrainer(runs, data, CPU)
    assert type(ours.engine) is NativeEngine
    theirs.engine = EagerEngine(theirs.state.network, theirs.state.optimizer, theirs.loader)
    losses = [one.train_block(one.plan(), 3) for one in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    for of in (lambda one: one.state.model.state_dict().values(), lambda one: one.state.optimizer.state):
        own, other = (
            torch.cat([tensor.double().flatten() for tensor in (*of(one), torch.ones(1))]) for one in (ours, theirs)
        )
        assert (own - other).norm() <= 1e-4 * other.norm()


def test_the_training_loss_has_the_smoothed_labels_and_the_test_loss_those_of_the_data(data_folder):
    data = prepared.read(data_folder)
    training = LaneTrainer([a_run(label_smoothing=0.2)], data, CPU)
    images, labels = (tensor[0] for tensor in training.loader.batches(training.plan(), 0, 1))
    logits = training.state.network.logits(images)
    found = training.train_block(training.plan(), 1)
    torch.testing.assert_close(found[0, 0], F.cross_entropy(logits, labels[:, 0], label_smoothing=0.2))
    test_images, test_labels = next(training.loader.test_batches(32))
    metric_sums = MetricSums(training.setting, 1, 4, CPU)
    tested = training.state.network.test([(test_images, test_labels)], training.engine.logits, metric_sums)
    expected = F.cross_entropy(training.state.network.logits(test_images), test_labels)
    assert tested.losses[0] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_a_training_learns_and_lanes_are_those_of_runs_alone(name, data_folder, tmp_path):
    runs = [a_run(optimizer=name, betas=(0.9, 0.99), base_lr=2**-11, seed=seed, epochs=4) for seed in (1, 2)]
    together = train(runs, prepared.read(data_folder), tmp_path)
    alone = train(runs[1:], prepared.read(data_folder), tmp_path)
    assert together[runs[1]][0].epochs == alone[runs[1]][0].epochs
    assert min(outcome.epochs[-1].test_accuracy for outcome, _ in together.values()) > 0.5
