"""Optimisers of torch.optim by name: in lanes as torch's own are alone, from one checkpoint to the next."""

import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from torch import nn

from smallbatch import models
from smallbatch.data import prepared
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.torch_optimizers import LaneTorch, follows_rate, why_not_allowed
from smallbatch.training.trainer import LaneTrainer

SHAPES = (2, 3, 2, 2), (3, 2), (3,)
ETAS = 2**-5, 2**-7, 2**-6
NAMES = (
    "torch:RMSprop(alpha=0.9, centered=True, momentum=0.5)", "torch:Adagrad(lr_decay=0.1)", "torch:Adadelta",
    "torch:Adamax(betas=(0.8, 0.95))", "torch:NAdam", "torch:RAdam(decoupled_weight_decay=True)", "torch:ASGD(t0=2)",
    "torch:Rprop", "torch:SGD(momentum=0.9, dampening=0.3)", "torch:AdamW(amsgrad=True)", "torch:Adafactor",
)  # fmt: skip


def decay_of(name: str) -> float:
    return 0.0 if "Rprop" in name else 0.1


def gradients(step: int, lane: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(100 * step + lane)
    return [torch.randn(shape, generator=draws) for shape in SHAPES]


def lanes_of(seeds: range) -> list[nn.Parameter]:
    return [nn.Parameter(torch.stack(of)) for of in zip(*(gradients(99, seed) for seed in seeds), strict=True)]


def step(optimizer: LaneTorch, number: int, lanes: list[int], factor: float = 1.0) -> None:
    for parameter, of in zip(
        optimizer.parameters, zip(*(gradients(number, lane) for lane in lanes), strict=True), strict=True
    ):
        parameter.grad = torch.stack(of)
    optimizer.step(factor)


def alone(name: str, lane: int, steps: int) -> list[torch.Tensor]:
    """What torch's own optimiser makes of a lane's weights, of which the last do not decay, at rates that halve."""
    weights = [nn.Parameter(tensor) for tensor in gradients(99, lane)]
    kind, decay = getattr(torch.optim, models.base_name(name).removeprefix("torch:")), decay_of(name)
    groups = [{"params": weights[:2]} | ({"weight_decay": decay} if decay else {}), {"params": weights[2:]}]
    if decay:
        groups[1]["weight_decay"] = 0.0
    theirs = kind(groups, lr=ETAS[lane], **models.arguments(name))
    for number in range(steps):
        for group in theirs.param_groups:
            group["lr"] = ETAS[lane] / 2**number
        for parameter, gradient in zip(weights, gradients(number, lane), strict=True):
            parameter.grad = gradient
        theirs.step()
    return [weight.detach() for weight in weights]


def made(name: str, seeds: range = range(3)) -> LaneTorch:
    optimizer = LaneTorch(lanes_of(seeds), [ETAS[seed] for seed in seeds], decay_of(name), name)
    optimizer.undecayed = frozenset({2})
    return optimizer


@pytest.mark.parametrize("name", NAMES)
def test_each_lane_is_updated_as_torch_updates_it_alone(name):
    ours = made(name)
    for number in range(5):
        step(ours, number, [0, 1, 2], 1 / 2**number)
    for lane in range(3):
        for own, other in zip(ours.parameters, alone(name, lane, 5), strict=True):
            torch.testing.assert_close(own[lane].detach(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_training_goes_on_to_the_bit_and_fewer_lanes_go_on(name):
    whole = made(name)
    for number in range(4):
        step(whole, number, [0, 1, 2])
    first = made(name)
    fresh = [(tensor.shape, tensor.dtype) for tensor in first.state]
    for number in range(2):
        step(first, number, [0, 1, 2])
    assert [(tensor.shape, tensor.dtype) for tensor in first.state] == fresh, "as a checkpoint is compared"
    resumed = made(name)
    for parameter, other in zip(resumed.parameters, first.parameters, strict=True):
        parameter.data.copy_(other)
    resumed.state = [tensor.clone() for tensor in first.state]
    fewer = made(name)
    fewer.state = [tensor.clone() for tensor in first.state]
    fewer.select([nn.Parameter(parameter[[0, 2]].detach().clone()) for parameter in first.parameters], [0, 2])
    for number in (2, 3):
        step(resumed, number, [0, 1, 2])
        step(fewer, number, [0, 2])
    for parameter, part, other in zip(resumed.parameters, fewer.parameters, whole.parameters, strict=True):
        assert torch.equal(parameter, other)
        assert torch.equal(part, other[[0, 2]])


def test_gradients_are_clipped_and_missing_ones_change_nothing():
    optimizer = LaneTorch(lanes_of(range(3)), ETAS, 0.0, "torch:Rprop")
    optimizer.clip_norm = 0.5
    before = [parameter.detach().clone() for parameter in optimizer.parameters]
    step(optimizer, 0, [0, 1, 2])
    norms = [
        torch.stack([parameter.grad[lane].norm() for parameter in optimizer.parameters]).norm() for lane in range(3)
    ]
    assert [norm.item() for norm in norms] == pytest.approx([0.5] * 3, rel=1e-4)
    moved = optimizer.parameters[2].detach().clone()
    assert not torch.equal(moved, before[2])
    optimizer.parameters[2].grad = None
    optimizer.step(1.0)
    assert torch.equal(optimizer.parameters[2], moved) and optimizer.state[-1].tolist() == [[2, 2, 1]] * 3


@pytest.mark.parametrize(
    ("name", "decay", "words"),
    [
        ("torch:RMSProp", 0.1, "of torch.optim ASGD, Adadelta"),
        ("torch:RMSProp", 0.1, "(did you mean 'RMSprop'?)"),
        ("torch:RMSprop(alpa=0.9)", 0.1, "the arguments alpha, eps, momentum, centered (did you mean 'alpha'?)"),
        ("torch:RMSprop(lr=0.9)", 0.1, "lr and weight_decay are settings"),
        ("torch:RMSprop(foreach=True)", 0.1, "the arguments alpha, eps"),
        ("torch:RMSprop(alpha=-1)", 0.1, "arguments that it takes (Invalid alpha value: -1"),
        ("torch:RMSprop(centered='no')", 0.1, "centered=False or another value of that type"),
        ("torch:RMSprop(centered=1)", 0.1, "centered=False or another value of that type"),
        ("torch:RMSprop(eps='x')", 0.1, "eps=1e-08 or another value of that type"),
        ("torch:Adam(betas=(0.9,))", 0.1, "betas=(0.9, 0.999) or another value of that type"),
        ("torch:Adam(betas=(0.9, 0.99, 0.999))", 0.1, "betas=(0.9, 0.999) or another value of that type"),
        ("torch:Adam(betas=0.9)", 0.1, "betas=(0.9, 0.999) or another value of that type"),
        ("torch:RMSprop(alpha=(0.9, 0.8))", 0.1, "alpha=0.99 or another value of that type"),
        ("torch:Rprop", 0.1, "weight_decay: 0 with Rprop, which has none"),
        ("torch:LBFGS", 0.0, "one that updates weights of any shape by their gradients"),
        ("torch:SparseAdam", 0.0, "one that updates weights of any shape by their gradients"),
        ("torch:Muon", 0.1, "one that updates weights of any shape by their gradients"),
        ("torch:Optimizer", 0.1, "of torch.optim ASGD"),
    ],
)
def test_what_cannot_be_used_is_refused(name, decay, words):
    assert words in why_not_allowed(name, decay)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_used_is_not(name):
    assert why_not_allowed(name, decay_of(name)) == ""


@pytest.mark.parametrize("name", NAMES)
def test_which_follow_a_schedule(name):
    assert follows_rate(name) == (name != "torch:Rprop")


def test_a_training_learns_and_lanes_are_those_of_runs_alone(data_folder, tmp_path):
    data = prepared.read(data_folder)
    recipe = {"optimizer": "torch:RMSprop(alpha=0.9)", "lr_scaling": "none", "epochs": 3}
    runs = [a_run(base_lr=2**-10, seed=seed, **recipe) for seed in (1, 2)]
    training = LaneTrainer(runs, data, torch.device("cpu"))
    assert isinstance(training.engine, EagerEngine) and isinstance(training.state.optimizer, LaneTorch)
    together = train(runs, data, tmp_path)
    for run in runs:
        alone, _ = train([run], data, tmp_path)[run]
        assert alone.epochs[-1].train_loss < alone.epochs[0].train_loss
        assert alone.epochs[0].train_loss == pytest.approx(together[run][0].epochs[0].train_loss, rel=1e-3)
