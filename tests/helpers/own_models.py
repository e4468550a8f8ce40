"""Models of the user's own, written into files, and what is found of them."""

import itertools
import textwrap

import torch
from torch.nn import functional as F

from helpers import a_run
from smallbatch import models
from smallbatch.core.seeds import stream_seed
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.training import own_models
from smallbatch.training.own_models import check_processes, examination, suitability
from smallbatch.training.own_models.set_order import sorted_sets
from smallbatch.training.own_models.spec import spec_of
from smallbatch.training.schedule import Schedule
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
DATASET = DatasetInfo((1, 8, 8), 4, 64, 32)
NUMBERS = itertools.count()

MODEL = """
import os, random, sys, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from smallbatch.models.resnet import Shortcut

class Mine(nn.Module):
    def __init__(self, c, k, norms):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(c, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, k)
        self.norm = norms.conv(8)
        {init}

    def middle(self, x):
        {middle}

    def forward(self, x):
        x = F.relu(self.norm(self.b(self.middle(self.a(x)))))
        {end}

def mine(shape, classes, norms):
    {make}
"""


def write(path, middle="return x", init="pass", end="return self.fc(x.mean((2, 3)))", make=None):
    make = make or "return Mine(shape[0], classes, norms)"
    text = MODEL.format(
        **{key: textwrap.indent(textwrap.dedent(value), " " * 8).strip() for key, value in
           {"middle": middle, "init": init, "end": end}.items()},
        make=textwrap.indent(textwrap.dedent(make), " " * 4).strip(),
    )  # fmt: skip
    path.write_text(text)


def found(**setting):
    return suitability(a_run(model="mine", **setting).setting, DATASET.shape, DATASET.classes)


def reference(run, data, draws=False):
    """The weights and test accuracy of a plain loop of torch."""
    training = LaneTrainer([run], data, CPU)  # for the images alone
    loader, s = training.loader, run.setting
    norms = {"norm": s.norm, "bn_batch_size": run.bn_batch_size}
    model = models.build(s.model, DATASET.shape, DATASET.classes, **norms, seed=run.seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=1, weight_decay=s.weight_decay, momentum=s.momentum)
    schedule = Schedule(s.epochs * loader.steps, s)
    for epoch in range(s.epochs):
        images, labels = loader.batches(loader.plan([run.seed], epoch), 0, loader.steps)
        model.train()
        for step in range(loader.steps):
            if draws:
                torch.manual_seed(stream_seed(run.seed, "model", epoch, step))
            optimiser.param_groups[0]["lr"] = run.learning_rate * schedule(epoch * loader.steps + step)
            optimiser.zero_grad()
            F.cross_entropy(model(images[step].clone()), labels[step, :, 0]).backward()
            optimiser.step()
    images, labels = next(loader.test_batches(1000))
    accuracy = (model.eval()(images).argmax(1) == labels).double().mean().item()
    return model.state_dict(), accuracy


MIXES = "a layer mixes lanes"
DRAWS = "it draws random numbers in training"
ASKS = "it asks a tensor for its values"
CHANGES = "it changes its weights in its passes"


def found_at(*sizes, **setting):
    asked = spec_of(a_run(model="mine", **setting).setting, DATASET.shape, DATASET.classes)
    return own_models.suitability_of(asked._replace(batch_sizes=sizes))


def united(asked, there):
    """What comes of it with this process, which has made models before and resumes after each update."""
    with sorted_sets({str(models.source(asked.entry_point))}, reverse=False):
        for seed in (1, 2):
            models.build(asked.model, asked.shape, asked.classes, seed=seed)
    here = {"training": examination.train_shortly(asked, resumed=True)}
    return check_processes.merge_answers(asked, here, there)
