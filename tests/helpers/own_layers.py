"""Layers of one's own: what they do in a pass decides whether a CUDA graph can capture their steps."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.lanes import train_instead
from smallbatch.models.initialisation import seeded
from smallbatch.training import trainer
from smallbatch.training.own_models import trained_model_check
from smallbatch.training.own_models.spec import BUILT_IN


class OwnLayer(nn.Module):
    """A layer of one's own with buffers, before a linear one; `passed` makes of features what it passes on."""

    def __init__(self, passed):
        super().__init__()
        self.passed, self.linear = passed, nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("turns", torch.tensor([[1.0, 2.0], [0.5, 1.0]]))

    def forward(self, x):
        return self.linear(self.passed(self, x.flatten(1)))


def counted_in_place(layer, x):
    layer.seen += 1
    return F.dropout(x * (1 + layer.seen / 100), 0.3, layer.training)


def replaced(layer, x):
    layer.seen = layer.seen + 1
    return F.dropout(x * (1 + layer.seen / 100), 0.3, layer.training)


def transposed(layer, x):
    layer.turns = layer.turns.t()
    return x * layer.turns[0, 1]


def asked(layer, x):
    layer.seen += 1
    return x if layer.seen < 9 else F.dropout(x, 0.3, layer.training)


def drawn_elsewhere(layer, x):
    return x if torch.rand(1, device="cpu") < 0.5 else 2 * x


def multiplied_elsewhere(layer, x):
    return x * torch.rand((), device="cpu")


def of_chosen(layer, x):
    return x * x[x > 0].mean()


def kept_in_a_cache(layer, x):
    if "table" not in vars(layer):
        layer.table = torch.arange(64, device="cpu").to(x)
    return x + layer.table


def train_alone(monkeypatch, passed):
    """From now on a model with an `OwnLayer` is trained in place of the runs' model, alone."""

    def build(seed):
        with seeded(seed):
            return OwnLayer(passed)

    train_instead(monkeypatch, build)
    monkeypatch.setattr(trainer, "suitability", lambda *_: BUILT_IN._replace(why_alone="a layer mixes lanes"))
    monkeypatch.setattr(trained_model_check.TrainedModelCheck, "__init__", lambda *_: None)
    monkeypatch.setattr(trained_model_check.TrainedModelCheck, "check", lambda *_: None)
