"""Which models the compiled kernels know: the others are refused with the reason, and left to torch."""

import logging

import pytest
import torch
from helpers import a_run
from helpers.lanes import train_instead
from torch import nn

from smallbatch.data import prepared
from smallbatch.models import MODELS
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native import library
from smallbatch.training.engines.native.engine import NativeEngine
from smallbatch.training.engines.native.memory_layout import MemoryLayout
from smallbatch.training.engines.trace import Graph, Kind, Unsupported
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library.compiler() is None, reason="no C++ compiler here"),
]


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "resnet50"])
def test_the_papers_models_are_known(model, norm, data_folder):
    training = LaneTrainer([a_run(model=model, norm=norm)], prepared.read(data_folder), CPU)
    assert type(training.engine) is NativeEngine


def unknown(*layers):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Tanh(), "Tanh"),
        (nn.Conv2d(4, 4, 3, groups=2), "convolution"),
        (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d"),
        (nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), "rectifies"),
    ],
)
def test_a_model_that_the_kernels_do_not_know_is_refused_with_the_reason(layer, said):
    model = unknown(layer)
    model(torch.zeros(1, 1, 8, 8))
    with pytest.raises(Unsupported, match=said):
        MemoryLayout(Graph(model, (1, 8, 8)), model.state_dict())


@pytest.mark.parametrize("change", ["clamp_(-0.5, 0.5)", "abs().mean()"])
def test_what_a_model_does_to_its_weights_is_not_left_out(change):
    """A trace meets it once, and has no operation for it."""

    class Computes(nn.Sequential):
        def forward(self, x):
            for weights in self.parameters():
                eval(f"weights.data.{change}", {"weights": weights})
            return super().forward(x)

    model = Computes(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(Unsupported, match="it computes with its weights outside its layers, by aten"):
        Graph(model, (1, 8, 8))


def test_group_norm_is_left_to_torch(data_folder, caplog):
    with caplog.at_level(logging.INFO):
        training = LaneTrainer([a_run(norm="group")], prepared.read(data_folder), CPU)
    assert type(training.engine) is EagerEngine and "GroupNorm" in caplog.text


def test_a_rectified_value_that_is_used_twice_is_whole_in_the_plan():
    """What is rectified after another has taken it cannot be one value."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            x = self.conv(x)
            return (self.other(torch.relu(x)) + x).flatten(1)

    with pytest.raises(Unsupported, match="rectifies"):
        Graph(Twice(), (1, 8, 8))


def test_gradients_take_the_places_of_others_that_are_through(data_folder):
    model = LaneTrainer([a_run(model="resnet32", norm="batch")], prepared.read(data_folder), CPU).initial_model(1)
    graph = Graph(model, (3, 32, 32))
    layout = MemoryLayout(graph, model.state_dict())
    assert sum(step.kind == Kind.CONV for step in graph.steps) == 32
    gradients = {op.d_output for op in layout.op_array} | {op.d_input for op in layout.op_array if op.d_input >= 0}
    assert len(gradients) < 12 < len(graph.steps)


class Forward(nn.Module):
    """Some layers for images [n, 3, 8, 8], and what `way` makes of them."""

    def __init__(self, way) -> None:
        super().__init__()
        self.way = way
        self.conv, self.same = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1)
        self.pool, self.fc, self.row = nn.MaxPool2d(2), nn.Linear(20 * 64, 4), nn.Linear(8, 4)

    def forward(self, x):
        return self.way(self, x)


def only_in_training(net, x):
    x = net.conv(x)
    return net.fc((net.same(x) if net.training else x).flatten(1))


def unused(net, x):
    x = net.conv(x)
    net.same(x)
    return net.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("said", "way"),
    [
        ("scales a sum", lambda net, x: net.fc(torch.add(net.same(net.conv(x)), net.conv(x), alpha=3).flatten(1))),
        ("logits are not the plain", lambda net, x: net.fc(net.same(net.conv(x)).flatten(1)).relu()),
        ("logits are not the plain", lambda net, x: net.same(net.conv(x)).flatten(1)),
        ("in testing than", only_in_training),
        ("parts of an image", lambda net, x: net.row(net.same(net.conv(x)))),
        ("other than all of an image", lambda net, x: net.fc(torch.flatten(net.conv(x), 1, end_dim=2))),
        ("a layer twice", lambda net, x: net.fc(net.same(net.same(net.conv(x))).flatten(1))),
        ("makes what it does not use", unused),
        ("does not use same", lambda net, x: net.fc(net.conv(x).flatten(1))),
        ("begins with", lambda net, x: net.fc(net.conv(net.pool(x)).flatten(1))),
        ("makes what|adds what", lambda net, x: net.fc((x + x).flatten(1))),
    ],
)
def test_what_the_kernels_would_get_wrong_is_refused(said, way):
    with pytest.raises(Unsupported, match=said):
        Graph(Forward(way), (3, 8, 8))


class ChangedInPlace(nn.Module):
    """What `+=` changes is used under another name, too: in what torch.fx tells of it that does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = (nn.Conv2d(inputs, 4, 3, padding=1) for inputs in (1, 4, 4))
        self.fc = nn.Linear(256, 4)

    def forward(self, x):
        kept = a = self.conv(x)
        a += self.one(a)
        return self.fc((self.two(a) + kept).flatten(1))


def test_a_model_that_the_kernels_compute_otherwise_is_left_to_torch(data_folder, monkeypatch, caplog):
    train_instead(monkeypatch, lambda seed: ChangedInPlace())
    with caplog.at_level(logging.INFO):
        training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    assert type(training.engine) is EagerEngine and "the kernels compute it otherwise" in caplog.text
