"""Models of the user's own: in lanes where those are proven equal, alone where not, or refused in one line."""

import itertools
import logging
import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PROJECT, a_run, training_settings
from helpers.lanes import train
from safetensors.torch import load, save_file
from torch.nn import functional as F

import smallbatch
from smallbatch import models, study_file
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.seeds import stream_seed
from smallbatch.data import prepared
from smallbatch.data.originals import Outline
from smallbatch.runs.store import RunStore
from smallbatch.study.settings import read_yaml
from smallbatch.training import own_models, variance
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines.eager import StochasticUpdates
from smallbatch.training.engines.native import updates as native
from smallbatch.training.engines.native.plan import Layout
from smallbatch.training.engines.trace import Graph
from smallbatch.training.evaluation import evaluate
from smallbatch.training.own_models import examination, subprocesses, suitability
from smallbatch.training.own_models.set_order import sorted_sets
from smallbatch.training.own_models.spec import spec_of
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import lane_count, memory
from smallbatch.training.resources.probe import noise
from smallbatch.training.schedule import Schedule
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
OUTLINE = Outline((1, 8, 8), 4, 64, 32)
NUMBERS = itertools.count()
pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")

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


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a file with the model `mine`, of which parts are said; returns the file."""

    def file(**parts):
        path = tmp_path / f"own_{next(NUMBERS)}.py"
        write(path, **parts)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(models.MODELS, "mine", f"{path.stem}:mine")
        return path

    return file


def found(**setting):
    return suitability(a_run(model="mine", **setting).setting, OUTLINE.shape, OUTLINE.classes)


IN_LANES = {
    "plain": {},
    "residual": {"middle": "return x + F.relu(self.b(x))", "end": "return self.fc(F.max_pool2d(x, 8).flatten(1))"},
    "frozen": {"init": "self.a.weight.requires_grad = False"},
    "unused": {"init": "self.idle = nn.Linear(3, 3)"},
    "pixel shuffle": {"middle": "return self.c(F.pixel_shuffle(x, 2))", "init": "self.c = nn.Conv2d(2, 8, 1)"},
    "grouped": {"init": "self.a = nn.Conv2d(c, 8, 1); self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)"},
    "shortcut": {"init": "self.cut = Shortcut(4); self.b = nn.Conv2d(12, 8, 1)", "middle": "return self.cut(x)"},
}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("parts", IN_LANES.values(), ids=IN_LANES)
def test_lanes_that_are_proven_equal_are_equal(parts, norm, own, data_folder, tmp_path, double):
    parts = parts | ({"middle": "return x"} if norm == "batch" and "residual" in str(parts) else {})
    own(**parts)
    assert found(norm=norm).lanes
    runs = [a_run(model="mine", norm=norm, b=2, base_lr=2**-9, seed=seed, momentum=0.5) for seed in (1, 2, 3)]
    data = prepared.read(data_folder)
    together = train(runs, data, tmp_path)
    for run in runs:
        _, weights = together[run]
        ours, (theirs, _) = load(weights), reference(run, data)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)


def reference(run, data, draws=False):
    """The weights and test accuracy of a plain loop of torch."""
    training = LaneTrainer([run], data, CPU)  # for the images alone
    feed, s = training.feed, run.setting
    norms = {"norm": s.norm, "bn_batch_size": run.bn_batch_size}
    model = models.build(s.model, OUTLINE.shape, OUTLINE.classes, **norms, seed=run.seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=1, weight_decay=s.weight_decay, momentum=s.momentum)
    schedule = Schedule(s.epochs * feed.steps, s.lr_drops, s.warmup)
    for epoch in range(s.epochs):
        images, labels = feed.batches(feed.plan([run.seed], epoch), 0, feed.steps)
        model.train()
        for step in range(feed.steps):
            if draws:
                torch.manual_seed(stream_seed(run.seed, "model", epoch, step))
            optimiser.param_groups[0]["lr"] = run.learning_rate * schedule(epoch * feed.steps + step)
            optimiser.zero_grad()
            F.cross_entropy(model(images[step].clone()), labels[step, :, 0]).backward()
            optimiser.step()
    images, labels = next(feed.test_batches(1000))
    accuracy = (model.eval()(images).argmax(1) == labels).double().mean().item()
    return model.state_dict(), accuracy


MIXES = "a layer mixes lanes"
DRAWS = "it draws random numbers in training"
ASKS = "it asks a tensor for its values"
TOKENS = """
tokens = x.flatten(2).transpose(1, 2)
return (tokens + self.mix(tokens)).transpose(1, 2).unflatten(2, x.shape[2:])
"""
ATTENTION = """
tokens = x.flatten(2).transpose(1, 2)
return self.mix(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, x.shape[2:])
"""
ALONE_MODELS = {
    "channel mean": ({"middle": "return x - x.mean(1, keepdim=True)"}, MIXES),
    "layer norm": ({"middle": "return F.layer_norm(x, x.shape[1:])", "norm": "own"}, MIXES),
    "rms norm": ({"middle": "return x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt()"}, MIXES),
    "softmax": ({"middle": "return F.softmax(x, 1)"}, MIXES),
    "softmax of features": ({"end": "return self.fc(F.softmax(x.flatten(2).mean(2), 1))"}, MIXES),
    "global statistics": ({"middle": "return x - x.mean((1, 2, 3), keepdim=True)"}, MIXES),
    "concatenation": ({"middle": "return self.c(torch.cat([x, 2 * x.flip(2)], 1))",
                       "init": "self.c = nn.Conv2d(16, 8, 1)"}, MIXES),
    "split": ({"middle": "one, two = x.chunk(2, 1)\nreturn torch.cat([two, one], 1)"}, MIXES),
    "shuffle": ({"middle": "return self.mix(x)", "init": "self.mix = nn.ChannelShuffle(2)"}, MIXES),
    "view": ({"middle": "return self.c(x.view(len(x), 8, 8, 8).transpose(1, 2))",
              "init": "self.c = nn.Conv2d(8, 8, 1)"}, "lanes break it (RuntimeError"),
    "constants by channel": ({"middle": "return x * torch.linspace(0, 1, x.shape[1])[:, None, None]"}, MIXES),
    "tokens": ({"middle": TOKENS, "init": "self.mix = nn.Linear(8, 8)"}, "lanes break it"),
    "attention": ({"middle": ATTENTION, "init": "self.mix = nn.MultiheadAttention(8, 2, batch_first=True)"}, "layer "),
    "parameter": ({"middle": "return x * self.scale", "init": "self.scale = nn.Parameter(torch.ones(8, 1, 1))"},
                  "layer Mine has parameters but no lane form"),
    "scalar": ({"middle": "return x * self.scale", "init": "self.scale = nn.Parameter(torch.tensor(0.5))"}, "layer "),
    "buffer by hand": ({"middle":
                        "if self.training: self.seen = 0.9 * self.seen + x.detach().mean()\nreturn x - self.seen",
                        "init": "self.register_buffer('seen', torch.zeros(()))"}, "layer Mine has parameters"),
    "tied": ({"middle": "return self.c(self.b(x))",
              "init": "self.c = nn.Conv2d(8, 8, 3, padding=1); self.c.weight = self.b.weight"}, MIXES),
    "transposed": ({"middle": "return self.c(x)", "init": "self.c = nn.ConvTranspose2d(8, 8, 1)"}, "layer ConvTransp"),
    "torch's batch norm": ({"middle": "return self.c(x)", "init": "self.c = nn.BatchNorm2d(8)", "norm": "own"},
                           "layer BatchNorm2d"),
    "reflected": ({"init": "self.a = nn.Conv2d(c, 8, 3, padding=1, padding_mode='reflect')"}, MIXES),
    "hook": ({"init": "self.a.register_forward_hook(lambda own, x, y: 2 * y if own.training else y)"},
             "a hook hangs on layer Conv2d"),
    "a weight's hook for large gradients": ({"init":
                                             "self.b.weight.register_hook(lambda g: g * 9e8 / max(9e8, g.norm()))"},
                                            "a hook hangs on layer Conv2d"),
    "another forward": ({"init": "self.b.forward = nn.Conv2d.forward.__get__(self.b)"}, "a hook hangs on layer Conv2d"),
    "a branch": ({"middle": "return x / 10 if x.abs().max() > 1e9 else x"}, ASKS),
    "a branch backwards": ({"middle": "y = x * 1\nif y.requires_grad: y.register_hook(lambda g: g * "
                                      "min(1, 1e9 / g.norm().item()))\nreturn y"}, ASKS),
    "numpy's view": ({"middle": "return x / max(1.0, x.detach().numpy().max() / 1e9)"}, ASKS),
    "large images": ({"middle": "return x / torch.where(x.abs().amax() > 30, 2.0, 1.0)"}, MIXES),
    "a lane that is not finite": ({"middle": "return torch.where(x.isfinite().all(), x, 2 * x)"},
                                  MIXES),
    "an infinite lane": ({"middle": "return torch.where(x.isinf().any(), 2 * x, x)"}, MIXES),
    "a lane that diverges": ({"middle": "return x / x.abs().amax().clamp(1e9)"}, MIXES),
    "weights that diverge": ({"end": "x = self.fc(x.tanh().nan_to_num().mean((2, 3)))\n"
                                     "return torch.where(x.isnan().any(), 2 * x, x)"}, MIXES),
    "noise on many": ({"middle": "return x + torch.randn_like(x) if self.training and len(x) > 99 else x"}, DRAWS),
    "hidden by a zero": ({"middle": "return x + self.c(F.softmax(x, 1))",
                          "init": "self.c = nn.Conv2d(8, 8, 1, groups=8)\nself.c.weight = nn.Parameter(self.c.weight)",
                          "make": "own = Mine(shape[0], classes, norms)\nnn.init.zeros_(own.c.weight)\nreturn own"},
                         MIXES),
    "dropout": ({"middle": "return self.drop(x)", "init": "self.drop = nn.Dropout(0.3)"}, DRAWS),
    "stochastic depth": ({"middle": "return x if self.training and torch.rand(()) < 0.5 else self.b(x)"}, DRAWS),
    "noise": ({"middle": "return x + torch.randn_like(x) if self.training else x"}, DRAWS),
    "not contiguous": ({"middle": "return F.conv2d(x, self.w[:, :, None, None])",
                        "init": "self.w = nn.Parameter(torch.eye(8, 8).mul(2).t())"}, "layer Mine has"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "reason"), ALONE_MODELS.values(), ids=ALONE_MODELS)
def test_what_lanes_do_not_suit_is_trained_alone_as_plain_torch_does(parts, reason, own, data_folder, tmp_path):
    norm = parts.get("norm", "none")
    own(**{name: part for name, part in parts.items() if name != "norm"})
    suits = found(norm=norm)
    assert suits.why_alone.startswith(reason) and not suits.lanes and suits.stochastic == (reason == DRAWS)
    runs = [a_run(model="mine", norm=norm, base_lr=2**-7, seed=seed, momentum=0.5) for seed in (1, 2)]
    assert train_pack(runs, data_folder, tmp_path, lanes=4, keep_weights="all") == 2
    data, store = prepared.read(data_folder), RunStore(tmp_path)
    for run in runs:
        record = store.find(run, data.meta.fingerprint)
        ours, (theirs, accuracy) = load(store.read_weights(record)), reference(run, data, draws=suits.stochastic)
        assert record.outcome.lanes == 1 and record.outcome.epochs[-1].test_accuracy == pytest.approx(accuracy)
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-4, atol=1e-5)
        assert evaluate(store, record, data_folder.parent, CPU).accuracy == record.outcome.epochs[-1].test_accuracy


REFUSED = {
    "a list": ({"make": "return []"}, "it cannot be made (TypeError: a list was made, not a torch.nn.Module)"),
    "raises": ({"make": "raise ValueError('no such\\nthing')"}, "it cannot be made (ValueError: no such thing)"),
    "exits": ({"make": "sys.exit(3)"}, "it cannot be made (SystemExit: 3)"),
    "two results": ({"end": "return x, x"}, "it returns a tuple; allowed: logits [images, 4], one for each class"),
    "too few": ({"init": "self.fc = nn.Linear(8, 3)"},
                "it returns [4, 3] of 4 images, torch.float32; allowed: logits [images, 4], one for each class"),
    "too many": ({"init": "self.fc = nn.Linear(8, 5)"}, "it returns [4, 5] of 4 images, torch.float32; allowed: "),
    "whole numbers": ({"end": "return self.fc(x.mean((2, 3))).long()"}, "it returns [4, 4] of 4 images, torch.int64;"),
    "fails": ({"middle": "return x @ torch.ones(3, 3)"}, "its training pass fails (RuntimeError: "),
    "no parameters": ({"make": "return nn.Sequential(nn.Flatten(), nn.LazyLinear(4)).requires_grad_(False)"}, "it "),
    "nothing to train": ({"make": "return Mine(shape[0], classes, norms).requires_grad_(False)"},
                         "it has no parameters to train"),
    "detached": ({"end": "return self.fc(x.mean((2, 3))).detach()"}, "nothing of it can be trained: its logits depend"),
    "initial weights": ({"init": "self.w = nn.Parameter(torch.tensor(time.perf_counter() % 1))"},
                        "its initial weights differ from one time to the next; allowed: torch's random numbers"),
    "numpy in the constructor": ({"init": "self.w = nn.Parameter(torch.tensor(np.random.rand()))"},
                                 "its initial weights draws from numpy.random; allowed: torch's random numbers"),
    "random": ({"middle": "return x if random.random() < 1e-9 else 2 * x"},
               "its training pass draws from Python's module random; allowed: torch's random numbers"),
    "numpy": ({"middle": "return x * np.random.rand()"},
              "its training pass draws from numpy.random; allowed: torch's random numbers"),
    "the system": ({"middle": "return x * os.urandom(1)[0] * os.urandom(1)[0]"}, "a training pass differs from one "),
    "the clock": ({"middle": "return x * (time.perf_counter() % 1)"}, "a training pass differs from one "),
    "a generator": ({"init": "self.draws = torch.Generator()",
                     "middle": "return x * torch.rand(1, generator=self.draws)"}, "it changes draws as it trains, "),
    "a counter": ({"init": "self.count = 0", "middle": "self.count += 1\nreturn x if self.count < 999 else 2 * x"},
                  "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "a counter in a list": ({"init": "self.count = [0]",
                             "middle": "self.count[0] += 1\nreturn x if self.count[0] < 999 else 2 * x"},
                            "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "a class's counter": ({"init": "Mine.count = getattr(Mine, 'count', 0)",
                           "middle": "Mine.count += 1\nreturn x if Mine.count < 999 else 2 * x"}, "it changes own_"),
    "a global counter": ({"init": "globals().setdefault('COUNT', 0)", "middle": """
                          global COUNT
                          COUNT += 1
                          return x if COUNT < 999 else 2 * x"""}, "it changes own_"),
    "a tensor that counts": ({"init": "self.count = torch.zeros(())",
                              "middle": "self.count += 1\nreturn x * torch.where(self.count < 999, 1.0, 2.0)"},
                             "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "an iterator": ({"init": "import itertools; self.count = itertools.count()",
                     "middle": "return x if next(self.count) < 999 else 2 * x"}, "it changes count as it trains, "),
    "a function's attribute": ({"middle": "mine.count = getattr(mine, 'count', 0) + 1\n"
                                          "return x if mine.count < 999 else 2 * x"}, "it changes own_"),
    "a default argument": ({"init": "self.count = lambda seen=[]: seen.append(1) or len(seen)",
                            "middle": "return x if self.count() < 999 else 2 * x"}, "it changes count as it trains, "),
    "a cache": ({"init": "import functools; self.count = functools.lru_cache(lambda: [0])",
                 "middle": "self.count()[0] += 1\nreturn x if self.count()[0] < 999 else 2 * x"}, "it changes count"),
    "deep in a dict": ({"init": "self.count = {1: {2: {3: {4: {5: [0]}}}}}", "middle": """
                        self.count[1][2][3][4][5][0] += 1
                        return x if self.count[1][2][3][4][5][0] < 999 else 2 * x"""}, "it changes count as it trains"),
    "a closure": ({"init": """
                   count = 0
                   def counted():
                       nonlocal count
                       count += 1
                       return count
                   self.counted = counted""", "middle": "return x if self.counted() < 999 else 2 * x"},
                  "it changes counted as it trains, which no checkpoint has"),
    "a hook's closure": ({"init": "seen = []; self.a.register_forward_hook(lambda *_: seen.append(1))"},
                         "it changes a._forward_hooks as it trains, which no checkpoint has; allowed: register_buffer"),
    "a layer in a list": ({"init": "self.c = [nn.BatchNorm2d(8)]", "middle": "return self.c[0](x)", "norm": "own"},
                          "it changes c as it trains, which no checkpoint has; allowed: register_buffer"),
    "an attribute of a weight": ({"middle": "self.a.weight.count = getattr(self.a.weight, 'count', 0) + 1\nreturn x"},
                                 "it changes a.weight.count as it trains, which no checkpoint has"),
    "an attribute of torch": ({"middle": "torch.counted = getattr(torch, 'counted', 0) + 1\nreturn x"},
                              "it changes torch.counted as it trains, which no checkpoint has"),
    "a late parameter": ({"middle": "if not hasattr(self, 'w'): self.w = nn.Parameter(torch.ones(8, 1, 1))\n"
                                    "return x * self.w"}, "it makes w as it trains; allowed: parameters and buffers"),
    "a late buffer": ({"middle": "if not hasattr(self, 'w'): self.register_buffer('w', torch.ones(8, 1, 1))\n"
                                 "return x * self.w"}, "it makes w as it trains; allowed: parameters and buffers that"),
    "a number of threads": ({"init": "torch.set_num_threads(2)"},
                            "its initial weights sets torch's number of threads for the whole process; allowed: a mod"),
    "a default type": ({"init": "torch.set_default_dtype(torch.float64)"},
                       "its initial weights sets torch's default type for the whole process"),
    "no oneDNN": ({"middle": "torch.backends.mkldnn.enabled = False\nreturn x"},
                  "its training pass sets torch's oneDNN for the whole process"),
    "another file": ({"init": "self.k = float(open(os.path.join(os.path.dirname(__file__), 'k.txt')).read())"},
                     "it reads /"),
    "a file of the system": ({"init": "self.k = len(open('/etc/hosts').read())"}, "it reads /etc/hosts, which"),
    "by way of a library": ({"init": "from pathlib import Path; self.k = len(Path('/etc/hosts').read_text())"},
                            "it reads /etc/hosts, which is no part of its runs' names; allowed: what its file, "),
    "a file through numpy": ({"init": "self.k = np.fromfile('/etc/hosts', np.uint8).mean()"}, "it reads /etc/hosts, "),
    "a file through torch": ({"init": "self.k = torch.from_file('/etc/hosts', False, 1, dtype=torch.uint8)"},
                             "it asks the system, by "),
    "a file through safetensors": ({"init": "from safetensors.torch import load_file\n"
                                            "self.k = load_file(os.path.join(os.path.dirname(__file__), 'k.tensors'))"},
                                   "it asks the system, by safetensors, which is no part of"),
    "the environment": ({"init": "self.k = float(os.environ.get('SCALE', 1))"},
                        "it asks the system, by os.environ, SCALE, which is no part of its runs' names"),
    "a variable": ({"init": "self.k = float(os.getenv('SCALE') or 1)"}, "it asks the system, by os.environ, SCALE"),
    "whether a variable is there": ({"init": "self.k = 1 + ('SCALE' in os.environ)"}, "it asks the system, by os.env"),
    "all variables": ({"init": "self.k = len(dict(os.environ))"}, "it asks the system, by os.environ"),
    "the day": ({"init": "self.k = time.strftime('%j')"}, "it asks the system, by time.strftime, which is no part of"),
    "the year": ({"init": "from datetime import date; self.k = date.today().year"}, "it asks the system, by date."),
    "the date": ({"init": "from datetime import datetime as d; self.k = d.now().year"}, "it asks the system, by datet"),
    "the machine": ({"init": "self.k = os.cpu_count()"}, "it asks the system, by posix.cpu_count, which is no part "),
    "its name": ({"init": "import socket; self.k = len(socket.gethostname())"}, "it asks the system, by _socket.geth"),
    "another program": ({"init": "import subprocess; self.k = subprocess.run(['true'])"}, "it asks the system, by sub"),
    "a hidden import": ({"init": "import importlib; self.k = importlib.import_module('hid' + 'den').K"}, "it reads /"),
    "no number": ({"middle": "return x * float('nan')"}, "its initial weights give logits that are not finite; allow"),
    "a hidden mean": ({"init": "self.mean = torch.zeros(())", "middle": """
                       if self.training: self.mean = x.detach().mean()
                       return x if self.training else x - self.mean"""},
                      "it remembers what its state_dict does not have; allowed: register_buffer"),
    "not saved": ({"init": "self.register_buffer('mean', torch.zeros(()), persistent=False)", "middle": """
                   if self.training: self.mean = x.detach().mean()
                   return x if self.training else x - self.mean"""}, "it remembers what its state_dict does not have"),
    "draws in testing": ({"middle": "return F.dropout(x, 0.3)"}, "in testing it draws random numbers; allowed: "),
    "changes in testing": ({"init": "self.register_buffer('n', torch.zeros(()))", "middle": "self.n += 1\nreturn x"},
                           "in testing it changes its buffers; allowed: a model that in eval mode does not"),
    "company in testing": ({"middle": "return x - x.mean(0)"}, "in testing an image's logits depend on the images bes"),
    "one image": ({"end": "return self.fc(x.mean((2, 3)).squeeze())"}, "it returns [4] of 1 images, torch.float32"),
    "images in place": ({"make": """
                         class InPlace(Mine):
                             def forward(self, x):
                                 x -= 0.5
                                 return super().forward(x)
                         return InPlace(shape[0], classes, norms)"""},
                        "it changes its images in place; allowed: a copy of them, as by x = x.clone(), or inplace="),
    "images behind autograd's back": ({"make": """
                                       own = Mine(shape[0], classes, norms)
                                       own.register_forward_pre_hook(lambda _, x: [x[0].data.mul_(2)] and None)
                                       return own"""}, "it changes its images in place; allowed: a copy of them"),
    "a seed in the maker": ({"make": "torch.manual_seed(0)\nreturn Mine(shape[0], classes, norms)"},
                            "its initial weights a.weight are random, but the same for each seed; allowed: random num"),
    "a generator in the maker": ({"init": "draws = torch.Generator().manual_seed(1)\n"
                                          "self.w = nn.Parameter(1 + 0.1 * torch.randn(8, 1, 1, generator=draws))",
                                  "middle": "return x * self.w"}, "its initial weights w are random, but the same"),
    "a seed in the pass": ({"middle": "torch.manual_seed(0)\nreturn F.dropout(x, 0.5, self.training)"},
                           "its training pass seeds torch's random numbers; allowed: to draw them, as the run's seed"),
    "a seed that is taken back": ({"middle": "with torch.random.fork_rng():\n    torch.manual_seed(0)\n"
                                             "    return F.dropout(x, 0.5, self.training)"},
                                  "it seeds torch's random numbers, by torch.random.manual_seed; allowed: to draw th"),
    "a seed after a draw": ({"middle": "state = torch.get_rng_state()\nx = F.dropout(x, 0.5, self.training)\n"
                                       "torch.set_rng_state(state)\nreturn x"},
                            "it seeds torch's random numbers, by torch.random.set_rng_state; allowed: to draw them"),
    "a weight's hook": ({"init": "self.a.weight.register_hook(lambda g: g * torch.rand(1).item())\n"
                                 "self.c = nn.Parameter(torch.ones(()))"}, ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_twice_the_same_is_refused_in_one_line(parts, line, own, monkeypatch):
    norm = parts.get("norm", "none")
    file = own(**{name: part for name, part in parts.items() if name != "norm"})
    for name in ("k.txt", "hidden.py"):
        file.with_name(name).write_text("K = 1\n" if name.endswith("py") else "1")
    save_file({"k": torch.ones(1)}, file.with_name("k.tensors"))
    monkeypatch.delitem(sys.modules, "hidden", raising=False)
    with pytest.raises(UserError) as refused:
        found(norm=norm)
    text = str(refused.value)
    assert text.startswith(f"model mine ({file}): {line}") and "\n" not in text


ELSEWHERE = {
    "the order of a set": "[ord(letter) for letter in {'a', 'b', 'c', 'd', 'e', 'f'}][0]",
    "the order of two": "(2 if list({'alpha', 'beta'})[0] == 'alpha' else 3)",
    "the order of what two sets have": "(2 if list({'alpha', 'beta', 'c'} - {'c'})[0] == 'alpha' else 3)",
    "a set made of a list": "(2 if [*frozenset(['alpha', 'beta'])][0] == 'alpha' else 3)",
    "one out of a set": "(2 if {word for word in ('alpha', 'beta')}.pop() == 'alpha' else 3)",
    "a hash": "hash('alpha') % 1000",
    "an address": "id(object()) // 16 % 1000",
    "arguments": "len(sys.argv[-1])",
    "the host": "len(__import__('platform').node())",
    "the user": "len(__import__('getpass').getuser())",
    "the folder": "len(os.getcwd())",
    "threads": "torch.get_num_threads()",
    "processors": "__import__('multiprocessing').cpu_count()",
    "the time": "np.datetime64('now').astype(int) % 1000",
    "the day": "np.datetime64('today').astype(int) % 1000",
    "the time zone": "time.timezone",
    "the locale": "len(__import__('locale').setlocale(__import__('locale').LC_ALL, ''))",
    "the process": "os.getpid() % 1000",
    "a random name": "__import__('uuid').uuid4().int % 1000",
    "models made before": "(globals().setdefault('MADE', []).append(1) or len(MADE))",
}
"""Numbers that a model has from outside, some of them in ways that only another process shows."""


SAME = {
    "nothing": "1",
    "a set of numbers": "list({3, 1, (2, 0.5)} - {(2, 0.5)})[0]",
    "whether a set has it": "('alpha' in {'alpha', 'beta'}) + len(frozenset('abc') | {'d'})",
    "a sorted set": "ord(sorted({letter for letter in 'acb'})[0])",
}
"""Numbers that are the same everywhere."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Of the models of `SAME` and `ELSEWHERE`: questions, and what a process in another place says to each."""
    folder, asked = tmp_path_factory.mktemp("elsewhere"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("LC_ALL", "C.UTF-8")
        for place, (name, number) in enumerate((SAME | ELSEWHERE).items()):
            model = f"elsewhere_{place}"
            write(folder / f"{model}.py", init=f"self.k = 1 + 0.01 * {number}", middle="return x * self.k")
            patch.setitem(models.MODELS, model, f"{model}:mine")
            setting = a_run(model=model).setting
            asked[name] = spec_of(setting, OUTLINE.shape, OUTLINE.classes)
        with subprocesses.CheckProcess(
            "a study", list(asked.values()), folder / "there", other_environment=True
        ) as process:
            yield asked, dict(zip(asked, process.answers(), strict=True))


def united(asked, there):
    """What comes of it with this process, which has made models before and resumes after each update."""
    with sorted_sets({str(models.source(asked.entry_point))}, reverse=False):
        for seed in (1, 2):
            models.build(asked.model, asked.shape, asked.classes, seed=seed)
    here = {"training": examination.train_shortly(asked, resumed=True)}
    return subprocesses.merged(asked, here, there)


@pytest.mark.slow
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_process_trains_otherwise_is_refused(name, elsewhere):
    asked, there = elsewhere
    found = united(asked[name], there[name])
    file = models.source(asked[name].entry_point)
    line = f"model {asked[name].model} ({file}): its weights after update 1 are others in another process; allowed: "
    assert found["refused"].startswith(line) and "\n" not in found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_another_process_trains_a_model_to_the_bit_as_this_one(name, elsewhere):
    asked, there = elsewhere
    found = united(asked[name], there[name])
    assert found["training"] == there[name]["training"] and len(set(found["training"].values())) > 6


@pytest.mark.slow
def test_a_study_is_told_what_only_another_process_shows(own, study):
    file = own(init="self.k = 1 + 0.01 * len(sys.argv[-1])", middle="return x * self.k")
    with pytest.raises(UserError) as refused:
        study()
    line = f"config/studies/own.yaml: model mine ({file}): its weights after update 1 are others in another process; "
    assert str(refused.value).startswith(line)


def test_what_a_file_asks_as_it_is_imported_is_heard(own):
    file = own()
    file.write_text(file.read_text() + "SCALE = float(os.environ.get('SCALE', 1))\n")
    with pytest.raises(
        UserError, match=r"it asks the system, by os.environ, SCALE, which is no part of its runs' names"
    ):
        found()


def test_what_a_model_may_read(own):
    """Its own files, what is installed, and where it lies; what libraries read as they are imported is theirs."""
    file = own(
        init="""
        import pathlib, sysconfig, torchvision, parts_beside
        here = pathlib.Path(os.path.abspath(__file__)).resolve().parent
        self.k = len(open(__file__).read()) + len(pathlib.Path(sysconfig.__file__).read_bytes()) + parts_beside.K
        time.sleep(0)
        open(os.devnull, "w").close()"""
    )
    file.with_name("parts_beside.py").write_text("K = 1\n")
    assert found().lanes


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_normalisation_that_a_model_does_not_have_is_refused(norm, own):
    own(init="self.norm = nn.Identity()")
    assert found(norm="none").lanes
    with pytest.raises(
        UserError, match=f"it has no layer that came from `norms`, so norm: {norm} would change nothing"
    ):
        found(norm=norm)


NORMALISING = {
    "BatchNorm2d": ("batch_norm", {"init": "self.c = nn.BatchNorm2d(8)"}),
    "InstanceNorm2d": ("instance_norm", {"init": "self.c = nn.InstanceNorm2d(8)"}),
    "LayerNorm": ("layer_norm", {"init": "self.c = nn.LayerNorm(8)"}),
    "RMSNorm": ("rms_norm", {"init": "self.c = nn.RMSNorm(8)"}),
    "GroupNorm": ("group_norm", {"init": "self.c = nn.GroupNorm(2, 8)"}),
    "LocalResponseNorm": ("local_response_norm", {"init": "self.c = nn.LocalResponseNorm(2)"}),
    "Mine": ("layer_norm", {"middle": "return F.layer_norm(x, x.shape[2:])"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", NORMALISING)
def test_a_normalisation_that_the_study_does_not_say_is_refused(layer, own):
    function, parts = NORMALISING[layer]
    own(**{"middle": "return self.c(x)", **parts})
    assert found(norm="own") is not None
    for norm in ("none", "batch", "group"):
        with pytest.raises(UserError) as refused:
            found(norm=norm)
        line = f"): its {layer} normalises ({function}), and norm: {norm} says otherwise; allowed: "
        assert line in str(refused.value)


STRANGE = {
    "scripted": ("self.c = torch.jit.script(nn.BatchNorm2d(8))", "self.c(x)",
                 "RecursiveScriptModule normalises (native_batch_norm)"),
    "native_batch_norm": ("pass", "torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0]",
                          "Mine normalises (native_batch_norm)"),
    "native_group_norm": ("pass", "torch.native_group_norm(x, None, None, len(x), 8, 64, 2, 1e-5)[0]",
                          "Mine normalises (native_group_norm)"),
    "native_layer_norm": ("pass", "torch.native_layer_norm(x, [8], None, None, 1e-5)[0]",
                          "Mine normalises (native_layer_norm)"),
}  # fmt: skip


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize(("init", "middle", "line"), STRANGE.values(), ids=STRANGE)
def test_what_normalises_without_being_one_of_norms_layers_is_seen_as_it_runs(init, middle, line, norm, own):
    own(init=init, middle=f"return {middle}")
    with pytest.raises(UserError) as refused:
        found(norm=norm)
    assert f"): its {line}, and norm: {norm} says otherwise; allowed: " in str(refused.value)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_layer_of_norms_that_is_never_called_is_none(norm, own):
    own(init="self.idle, self.norm = self.norm, nn.Identity()")
    with pytest.raises(
        UserError, match=rf"its training pass calls no layer that came from `norms`, so norm: {norm} would"
    ):
        found(norm=norm)


UNTRAINED = {
    "in eval mode": ({"middle": "self.norm.eval()\nreturn x"}, "its layer norm takes no statistics of the mini-b"),
    "its result is unused": ({"init": "self.c, self.norm = self.norm, nn.Identity()", "middle": "self.c(x)\nreturn x"},
                               "no layer of `norms` has a gradient, so norm: batch would"),
    "its result is not needed": ({"init": "self.c, self.norm = self.norm, nn.Identity()",
                                  "middle": "return x + 0 * self.c(x)"}, "no layer of `norms` has a gradient"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "line"), UNTRAINED.values(), ids=UNTRAINED)
def test_a_layer_of_norms_that_does_nothing_is_none(parts, line, own):
    own(**parts)
    with pytest.raises(UserError) as refused:
        found(norm="batch")
    assert f"): {line}" in str(refused.value)


def test_a_model_that_asks_for_a_value_does_not_draw(own):
    own(init="self.register_buffer('first', torch.ones(()))",
        middle="if self.training and self.first: self.first.zero_()\nreturn x * (1 + self.first)")  # fmt: skip
    assert found().why_alone.startswith("layer Mine has parameters") and not found().stochastic


@pytest.mark.slow
def test_a_copy_of_a_layer_of_norms_is_one(own):
    own(init="import copy; self.c = copy.deepcopy(self.norm); self.norm = nn.Identity()", middle="return self.c(x)")
    assert found(norm="batch").lanes


def test_an_empty_layer_stays_what_it_is_where_normalisation_is_looked_for(own):
    own(init="self.c = nn.Sequential()", middle="return self.c(x)")
    assert found().lanes


@pytest.mark.slow
def test_a_model_that_fails_at_a_size_that_was_not_tried_is_told_in_one_line(own, data_folder, tmp_path):
    file = own(middle="assert len(x) <= 4, 'four at\\nmost'\nreturn x")
    with pytest.raises(UserError) as refused:
        train_pack([a_run(model="mine", batch_size=8)], data_folder, tmp_path)
    assert str(refused.value) == f"model mine ({file}): its training fails (AssertionError: four at most)"


SIZED = {
    "fails above 4": ({"middle": "assert len(x) <= 4, 'four at most'\nreturn x"},
                      "its training pass of 8 images fails (AssertionError: four at most)"),
    "fails at 8 alone": ({"middle": "if self.training: assert len(x) != 8, 'not\\neight'\nreturn x"},
                         "its training pass of 8 images fails (AssertionError: not eight)"),
    "fails at 4096": ({"middle": "return x.view(min(len(x), 1000), *x.shape[1:])"},
                      "its training pass of 4096 images fails (RuntimeError: "),
    "fails by a value": ({"middle": "assert len(x) <= 4 or x.sum() == 0, 'four at most'\nreturn x"},
                         "its training pass of 8 images fails (AssertionError: four at most)"),
    "fails in tests": ({"middle": "assert self.training or len(x) <= 999, 'fewer'\nreturn x"},
                       "its test pass of 2048 images fails (AssertionError: fewer)"),
    "another result": ({"end": "return self.fc(x.mean((2, 3)))[:999]"}, "it returns [999, 4] of 4096 images, torch"),
    "a layer above 4": ({"init": "self.c = nn.Conv2d(8, 8, 1)", "middle": "return self.c(x) if len(x) > 4 else x"},
                        "at m = 8 it calls other layers than at m = 4 (c); allowed: the same at each m"),
    "a norm above 4": ({"middle": "return F.layer_norm(x, x.shape[1:]) if self.training and len(x) > 4 else x"},
                       "its Mine normalises (layer_norm), and norm: none says otherwise; allowed: "),
    "tests of more than 8": ({"middle": "return x if self.training or len(x) <= 8 else 2 * x"},
                             "in testing an image's logits depend on how many are beside it (32); allowed: a model wh"),
    "tests of more than 300": ({"middle": "return x if self.training or len(x) <= 300 else 2 * x"},
                               "in testing an image's logits depend on how many are beside it (512); allowed: a model"),
    "tests of more than 1500": ({"middle": "return x if self.training else x * (1 + (len(x) > 1500))"},
                                "in testing an image's logits depend on how many are beside it (2048); allowed: a mod"),
    "draws at one size": ({"middle": "return F.dropout(x) if self.training and len(x) == 4096 else x"},
                          "it draws random numbers at m = 4096, but not at all; allowed: the same at each m"),
}  # fmt: skip


def found_at(*sizes, **setting):
    asked = spec_of(a_run(model="mine", **setting).setting, OUTLINE.shape, OUTLINE.classes)
    return own_models.suitability_of(asked._replace(batch_sizes=sizes))


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "line"), SIZED.values(), ids=SIZED)
def test_what_a_model_does_at_the_sizes_of_a_study_is_checked_before_it(parts, line, own):
    file = own(**parts)
    with pytest.raises(UserError) as refused:
        found_at(2, 8, 4096)
    assert str(refused.value).startswith(f"model mine ({file}): {line}")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_batches_of_an_odd_number_are_no_mistake(norm, own):
    own()
    assert found_at(2, 7, 4097, norm=norm).lanes


@pytest.mark.slow
def test_a_study_names_the_size_that_its_model_does_not_take(own, study):
    file = own(middle="assert len(x) <= 4, 'four at most'\nreturn x")
    with pytest.raises(UserError) as refused:
        study(batch_sizes=[2, 8])
    line = "its training pass of 8 images fails (AssertionError: four at most)"
    assert str(refused.value) == f"config/studies/own.yaml: model mine ({file}): {line}"


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 5000])
def test_random_numbers_of_large_mini_batches_alone_are_found(count, own):
    """By their shapes: no batch of that size is computed."""
    own(middle=f"return F.dropout(x) if self.training and len(x) >= {count} else x")
    assert found().stochastic and found().why_alone == DRAWS


BY_CHANNEL = "x - 0.5 * x.mean(1, keepdim=True)"


def test_what_python_compiled_of_an_earlier_file_is_not_run(own, monkeypatch):
    """Though it has the size and the time, as files have that were copied with their times."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = own(end="return self.fc(x.mean((2, 3))) * 1.0")
    os.utime(file, (1, 1))
    images = torch.ones(2, 1, 8, 8)
    before = models.build("mine", (1, 8, 8), 4)(images)
    assert (file.parent / "__pycache__").is_dir()
    file.write_text(file.read_text().replace("* 1.0", "* 2.0"))
    os.utime(file, (1, 1))
    monkeypatch.delitem(sys.modules, file.stem)
    torch.testing.assert_close(models.build("mine", (1, 8, 8), 4)(images), 2 * before)


def test_a_model_that_is_edited_between_planning_and_its_import_is_refused(own, data_folder, tmp_path):
    """And one that is edited later goes on as it was imported."""
    file = own()
    planned, data = a_run(model="mine", epochs=1), prepared.read(data_folder)
    text = file.read_text()
    file.write_text(text.replace("mean((2, 3))", "amax((2, 3))"))
    with pytest.raises(UserError, match="is not what this run was named after"):
        LaneTrainer([planned], data, CPU)
    sys.modules.pop(file.stem)
    file.write_text(text)
    LaneTrainer([planned], data, CPU)
    file.write_text(text.replace("mean((2, 3))", "amax((2, 3))"))
    LaneTrainer([planned], data, CPU)


@pytest.mark.slow
def test_lanes_are_compared_where_a_model_computes_otherwise_with_many_examples(own):
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) >= 16 else x")
    assert found().why_alone == "at m = 16 it computes otherwise than at m = 4"
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) >= 1000 else x")
    assert found().why_alone == "at m = 1024 it computes otherwise than at m = 4"
    own(middle="return x + x if len(x) >= 8 else 2 * x")
    assert found().lanes, "lanes are equal at each size"


@pytest.mark.slow
def test_what_only_a_batch_size_of_the_study_does_is_refused(own, study):
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) == 6 else x")
    study(batch_sizes=[4, 8])
    with pytest.raises(
        UserError, match=r"at m = 6 it computes otherwise than at m = 4, and not in lanes; allowed: the"
    ):
        study(batch_sizes=[4, 6])


def test_lanes_are_compared_as_tests_run_too(own):
    """Layers may have a path of their own where nothing has gradients."""
    own(middle=f"return x if torch.is_grad_enabled() else {BY_CHANNEL}")
    assert found().why_alone == MIXES


def test_probabilities_are_no_logits(own):
    own(end="return torch.softmax(self.fc(x.mean((2, 3))), 1)")
    with pytest.raises(
        UserError, match=r"it returns probabilities, as softmax gives them; allowed: logits, without so"
    ):
        found()
    own(end="return torch.log_softmax(self.fc(x.mean((2, 3))), 1)")
    assert found().min_batch_size == 1, "of which softmax makes the same"


def test_lanes_are_compared_in_single_precision_too(own):
    own(middle=f"return {BY_CHANNEL} if x.dtype == torch.float32 else x")
    assert found().why_alone == MIXES


@pytest.mark.slow
def test_what_is_known_of_a_model_serves_other_sizes_of_its_jobs(own, study, monkeypatch):
    own()
    setting = study(batch_sizes=[2, 8]).experiments["one"].setting
    monkeypatch.setattr("smallbatch.training.own_models.examination.examine", None)
    own_models.suitability_of.cache_clear()
    assert suitability(setting, (1, 8, 8), 10).lanes


def test_the_random_numbers_of_a_model_are_those_of_the_step(own, data_folder):
    """So a training that is resumed, in a process that has drawn others since, goes on to the bit."""
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    run, data = a_run(model="mine"), prepared.read(data_folder)
    whole, stopped = (LaneTrainer([run], data, CPU) for _ in range(2))
    assert type(whole.updates) is StochasticUpdates
    before = torch.get_rng_state()
    losses = whole.train_block(whole.plan(), 8)
    assert torch.equal(before, torch.get_rng_state())
    stopped.state.add_losses(stopped.train_block(stopped.plan(), 3))
    torch.rand(17)
    resumed = LaneTrainer([run], data, CPU)
    resumed.restore(stopped.state.state_dict())
    assert torch.equal(resumed.train_block(resumed.plan(), 8), losses[3:])
    for name, tensor in whole.state.model.state_dict().items():
        assert torch.equal(resumed.state.model.state_dict()[name], tensor)
    other = LaneTrainer([replace(run, seed=2)], data, CPU)
    other.restore(stopped.state.state_dict() | {"runs": [replace(run, seed=2).settings]})
    assert not torch.equal(other.updates.block(stopped.plan(), 3, 4, [1.0]), losses[4])


def test_streams_with_a_step_are_others_and_those_without_stay():
    assert stream_seed(1, "order", 2) == 0x14B9845B68517B94
    seeds = {stream_seed(1, "model", epoch, step) for epoch in range(3) for step in (None, 0, 1, 2)}
    assert len(seeds) == 12


def test_the_variance_of_updates_is_measured_alone(own, data_folder):
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    run, data = a_run(model="mine", variance_batch_sizes=(2, 8)), prepared.read(data_folder)
    training = LaneTrainer([run], data, CPU)
    one = variance.measure(training.updates, [run], 0)
    torch.rand(3)
    two = variance.measure(training.updates, [run], 0)
    assert one == two and min(row.trace for row in one[0]) > 0


@pytest.mark.slow
def test_mini_batches_whose_examples_know_each_other_are_not_taken_in_parts(own, data_folder):
    own(middle="return self.c(x)", init="self.c = nn.BatchNorm2d(8)")
    run, data = a_run(model="mine", batch_size=8, norm="own"), prepared.read(data_folder)
    assert not found(norm="own").splittable
    assert LaneTrainer([run], data, CPU, images_at_once=2).state.network.micro_batch == 8
    own()
    run = a_run(model="mine", batch_size=8)
    assert found().splittable
    assert LaneTrainer([run], data, CPU, images_at_once=2).state.network.micro_batch == 2


NOT_IN_PARTS = {
    "the second half": {"middle": "return torch.cat([x[:2], x[2:] - x.mean(0)]) if self.training else x"},
    "a buffer": {"middle": "if self.training: self.seen.copy_(x.detach().mean(0).mean())\nreturn x",
                 "init": "self.register_buffer('seen', torch.zeros(()))"},
    "passes counted": {"middle": "if self.training: self.seen += 1\nreturn x",
                       "init": "self.register_buffer('seen', torch.zeros(()))"},
    "many": {"middle": "return x - x.mean(0) if self.training and len(x) > 99 else x"},
    "gradients": {"middle": "y = x * 1\nif y.requires_grad: y.register_hook(lambda g: g / g.norm())\nreturn y"},
    "fails in parts": {"middle": "if self.training: assert len(x) > 2\nreturn x"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("parts", NOT_IN_PARTS.values(), ids=NOT_IN_PARTS)
def test_what_a_part_of_a_mini_batch_does_not_know_of_the_others_is_compared_in_all(parts, norm, own):
    own(**parts)
    assert not found(norm=norm).splittable


def test_memory_and_lanes_of_a_model_that_is_trained_alone(own, no_kernels):
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    memory.trace.cache_clear()  # in it are models by name
    run = a_run(model="mine", batch_size=4096)
    need = memory.need_of(run, OUTLINE, CPU, photos=False)
    weights = 4 * (8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 4 + 4)
    assert need.lane == 2 * weights + 2 * 64 * 8 and need.example > 4 * 3 * 8 * 64
    whole, half = need.bytes(1, 4096), need.bytes(1, 2048)
    assert whole > half
    room = memory.MemoryBudget((whole + half) // 2, CPU, ALONE, OUTLINE, False, "auto")
    with pytest.raises(UserError, match="out of memory: mine on made, m=4096"):
        room.fitting([run])
    assert own_models.most_lanes(run.setting, OUTLINE, 9) == 1
    assert lane_count.best_lane_count(run, 1, OUTLINE, CPU, 1) == 1
    with pytest.raises(UserError, match="model mine: it is trained alone"):
        LaneTrainer([a_run(model="mine")] * 2, noise(OUTLINE, 64), CPU)


@pytest.mark.slow
def test_kernels_are_compared_by_losses_updates_and_logits(data_folder, monkeypatch):
    training = LaneTrainer([a_run(model="resnet8", norm="batch", b=2)], prepared.read(data_folder), CPU)
    if training.backend.layout is None:
        pytest.skip("no compiler")
    model = training.initial_model(1)
    layout = Layout(Graph(model, (1, 8, 8)), model.state_dict())
    assert native.agree(model, layout, training.feed)
    make = native.NativeUpdates.make
    monkeypatch.setattr(native.NativeUpdates, "make", lambda self, batches, factors: make(self, batches, [1.1]))
    assert not native.agree(model, layout, training.feed)


def test_names_of_runs_of_the_projects_models_are_as_recorded():
    assert a_run().name("f" * 64) == "made_alexnet-none_m4_log2lr-8_seed1-f75bf380e51e"
    batch = a_run(model="resnet8", norm="batch", b=2, momentum=0.9)
    assert batch.name("f" * 64) == "made_resnet8-batch_m4_b2_log2lr-8_seed1-5f74b12e5a56"


@pytest.mark.slow
def test_an_edited_model_names_new_runs_and_old_ones_cannot_be_evaluated(own, data_folder, tmp_path):
    file = own()
    old = a_run(model="mine")
    train_pack([old], data_folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    name = old.name(fingerprint)
    assert (
        evaluate(store, store.read(name), data_folder.parent, CPU).accuracy
        == store.read(name).outcome.epochs[-1].test_accuracy
    )
    assert store.read(name).run.setting.model_content == models.content("mine")
    file.write_text(file.read_text().replace("F.relu", "F.silu"))
    models.content_at.cache_clear()
    del sys.modules[file.stem]  # as in another process
    new = a_run(model="mine")
    assert new.name(fingerprint) != name and not store.has(new, fingerprint) and store.has(old, fingerprint)
    with pytest.raises(
        UserError, match=rf"model mine: {file.stem}:mine in {file} is not what this run was named after"
    ):
        evaluate(store, store.read(name), data_folder.parent, CPU)
    with pytest.raises(UserError, match="is not what this run was named after"):
        train_pack([replace(old, seed=9)], data_folder, tmp_path)


HONEST = {
    "mlp": ("batch", ""),
    "vgg": ("batch", ""),
    "residual": ("batch", ""),
    "copied_blocks": ("group", ""),
    "depthwise": ("group", ""),
    "gelu": ("batch", ""),
    "squeeze_and_excitation": ("batch", ""),
    "clamped_in_place": ("batch", ""),
    "max_out": ("none", ""),
    "group_norm": ("own", ""),
    "in_pieces": ("none", ""),
    "dense": ("batch", MIXES),
    "tied": ("none", MIXES),
    "hooked": ("none", "a hook hangs on layer Conv2d"),
    "batch_norm": ("own", "layer BatchNorm2d has"),
    "convnext": ("own", "layer ChannelNorm has"),
    "weight_norm": ("none", "layer ParametrizedConv2d has"),
    "fixed_filters": ("none", "layer FixedFilters has"),
    "with_positions": ("none", "layer Positions has"),
    "transformer": ("own", "layer VisionTransformer has"),
    "transformer_with_dropout": ("own", DRAWS),
    "dropout": ("none", DRAWS),
    "checkpointed": ("none", DRAWS),
    "stochastic_depth": ("batch", DRAWS),
}
"""Makers of `helpers.honest_models` -> the norm of a study, and why the model is not trained in lanes, if so."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Of each honest model: the question, and what a process in another place says."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        for name in HONEST:
            patch.setitem(models.MODELS, name, f"helpers.honest_models:{name}")
        asked = [
            spec_of(a_run(model=name, norm=norm).setting, (3, 16, 16), 10)._replace(batch_sizes=(2, 8, 256))
            for name, (norm, _) in HONEST.items()
        ]
        with subprocesses.CheckProcess("a study", asked, folder / "there", other_environment=True) as process:
            yield {one.model: (one, there) for one, there in zip(asked, process.answers(), strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_is_not_refused(name, honest):
    asked, there = honest[name]
    found = own_models.suitability_of(asked)
    reason = HONEST[name][1]
    assert (
        found.why_alone.startswith(reason) and found.lanes == (reason == "") and found.stochastic == (reason == DRAWS)
    )
    assert "refused" not in united(asked, there)


@pytest.mark.parametrize(
    "line", ["import parts_{n}", "from parts_{n} import x", "def f():\n    from parts_{n} import x"]
)
def test_what_a_model_imports_from_beside_it_is_part_of_it(line, own, tmp_path):
    file = own()
    part = tmp_path / f"parts_{file.stem}.py"
    part.write_text("x = 1\n")
    file.write_text(file.read_text() + line.format(n=file.stem) + "\n")
    before = models.content("mine")
    part.write_text("x = 2\n")
    models.content_at.cache_clear()
    assert models.content("mine") != before


def test_which_function_of_a_file_a_model_is_is_part_of_it(own, data_folder, tmp_path, monkeypatch):
    file = own()
    file.write_text(file.read_text() + "\n\ndef other(*given):\n    return mine(*given)\n")
    run, before = a_run(model="mine"), models.content("mine")
    monkeypatch.setitem(models.MODELS, "mine", f"{file.stem}:other")
    assert models.content("mine") != before
    with pytest.raises(UserError, match=rf"model mine: {file.stem}:other in {file} is not what this run was named aft"):
        train_pack([run], data_folder, tmp_path)


def test_a_model_of_the_project_by_another_name_is_part_of_its_runs(monkeypatch):
    for function in ("resnet8", "resnet20"):
        monkeypatch.setitem(models.MODELS, "mine", f"smallbatch.models.resnet:{function}")
        assert models.is_own("mine") and not models.is_own(function) and models.content(function) is None
        assert a_run(model="mine").setting.model_content == models.content("mine") is not None
    contents = {models.content_at(f"smallbatch.models.resnet:resnet{depth}") for depth in (8, 20)}
    assert len(contents) == 2


def test_a_model_keeps_the_initial_weights_that_it_makes(own):
    """Fixed filters, zeros and whatever distribution; the paper's rule is for the paper's models."""
    own(init="nn.init.constant_(self.a.weight, 1 / 9); nn.init.zeros_(self.fc.weight); nn.init.uniform_(self.b.bias)")
    built = models.build("mine", (1, 8, 8), 4, seed=1)
    assert (built.a.weight == 1 / 9).all() and (built.fc.weight == 0).all() and (built.b.bias > 0).any()
    assert not torch.equal(built.b.weight, models.build("mine", (1, 8, 8), 4, seed=2).b.weight)


def test_a_model_of_the_project_by_another_name_has_the_papers_weights(monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", "smallbatch.models.resnet:resnet8")
    ours, theirs = (models.build(name, (3, 32, 32), 10, seed=1).state_dict() for name in ("mine", "resnet8"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("path", "is_the_projects"),
    [
        ("models/resnet50.py", True),
        ("models/__init__.py", True),
        ("models/resnet50.pth", False),
        ("models/alexnet.json", False),
        ("models/mine.py", False),
        ("models/resnet/resnet50.py", False),
        ("blocks.py", False),
        ("training/blocks.py", False),
    ],
)
def test_whose_a_file_of_the_library_is(path, is_the_projects):
    assert models.is_the_projects(Path(models.__file__).parents[1] / path) == is_the_projects


@pytest.mark.slow
@pytest.mark.parametrize("where", ["blocks.py", "models/resnet50.json"])
def test_a_file_that_was_added_to_the_library_is_refused(where, own, monkeypatch, tmp_path):
    """Beside the library's own: its change would go by."""
    library = tmp_path / "library" / "smallbatch"
    (library / "models").mkdir(parents=True)
    (library / where).write_text("WIDTH = 1\n" if where.endswith(".py") else "1")
    monkeypatch.setattr(models, "__file__", str(library / "models" / "__init__.py"))
    monkeypatch.setattr(smallbatch, "__path__", [*smallbatch.__path__, str(library)])
    own(init="import smallbatch.blocks" if where.endswith(".py") else f"open({str(library / where)!r}).read()")
    with pytest.raises(UserError, match=rf"it reads {library / where}, which is no part of its runs' names; allowed: "):
        found()


@pytest.fixture
def study(project_folder, monkeypatch):
    """Loads a study of the model `mine`."""

    def loaded(training=None, **experiment):
        values = {"data": "digits", "model": "mine", "weight_decay": 0, "epochs": 1, "batch_sizes": [2, 8]}
        values |= {"base_lrs": ["2^-8"], **experiment}
        (project_folder / "config/studies/own.yaml").write_text(
            str({"title": "Own", "seeds": [1], "experiments": {"one": values},
                 "figures": {"f": {"kind": "accuracy", "title": "F", "experiments": ["one"]}}})
        )  # fmt: skip
        config = read_yaml(PROJECT / "config" / "config.yaml") | {"study": "own"}
        return study_file.load_study(config | {"training": training_settings(**training or {})})

    return loaded


@pytest.fixture
def project_folder(tmp_path, monkeypatch):
    (tmp_path / "here/config/studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.slow
def test_a_study_is_checked_as_it_is_loaded_and_the_verdict_remembered(own, study, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    file = own(middle="return x - x.mean(1, keepdim=True)")
    setting = study().experiments["one"].setting
    assert setting.model_content == models.content("mine") and file.stem not in sys.modules
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("config/studies/own.yaml: experiments.one: model mine is trained alone, since a layer mi")
    assert "checked model mine in" in caplog.text
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(subprocesses, "check_models", None)
        study()
    kept = list((cache_folder() / "models").iterdir())
    assert len(kept) == 2, "as the study asks, and as a job does, which does not know all batch sizes"
    assert "model mine is trained alone" in caplog.text
    for answer in kept:
        answer.write_text(answer.read_text().replace("a layer mixes", "a layer does"))
    study()
    assert all("a layer mixes lanes" in answer.read_text() for answer in kept)
    write(file, middle="return x")
    models.content_at.cache_clear()
    assert study().experiments["one"].setting.model_content != setting.model_content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "line"),
    [
        ("import ctypes; ctypes.string_at(0)", "it ended the process: SIGSEGV"),
        ("os._exit(0)", "it ended the process: exit 0"),
        ("print('hello'); sys.exit('bye')", "it cannot be made (SystemExit: bye)"),
        ("import none_such_module", "it cannot be made (ModuleNotFoundError: No module named 'none_such_module')"),
    ],
)
def test_a_file_that_ends_the_process_costs_a_line(make, line, own, study):
    file = own(make=make)
    with pytest.raises(UserError) as refused:
        study()
    assert str(refused.value) == f"config/studies/own.yaml: model mine ({file}): {line}"


@pytest.mark.slow
def test_a_check_without_end_is_ended(own, study, monkeypatch):
    monkeypatch.setattr(subprocesses, "CHECK_TIMEOUT_S", 8)
    own(make="time.sleep(100)")
    with pytest.raises(UserError, match=r"config/studies/own.yaml: model mine: no end of its check in 8 s"):
        study()


@pytest.mark.slow
def test_what_a_study_asks_of_a_model_that_is_trained_alone(own, study):
    own(middle="return F.softmax(x, 1)")
    with pytest.raises(UserError, match=r"training.processes: 2 is not allowed; allowed: 1 with model mine, which is"):
        study(training={"processes": 2})
    own(middle="return x - x.mean(0) if self.training else x", end="return self.fc(x.amax((2, 3)))")
    with pytest.raises(UserError, match=r"training.processes: 2 .* with model mine, which needs all of a mini"):
        study(training={"processes": 2})
    with pytest.raises(UserError, match=r"experiments.one.variance_batch_sizes: \[2\] is not allowed"):
        study(variance_batch_sizes=[2])


@pytest.mark.slow
def test_the_fewest_examples_of_a_model(own, study):
    own(middle="return self.c(x.mean((2, 3), keepdim=True))", init="self.c = nn.BatchNorm2d(8)")
    assert found(norm="own").min_batch_size == 2
    with pytest.raises(UserError, match=r"experiments.one.batch_sizes: 1 is not allowed; allowed: numbers from 2, the"):
        study(batch_sizes=[1, 2], norm="own")


def test_only_a_model_of_the_users_has_a_norm_of_its_own(study):
    with pytest.raises(UserError, match=r"one.norm: 'own' is not allowed; allowed: none, batch or group with resnet8"):
        study(model="resnet8", norm="own")


@pytest.mark.parametrize("place", ["none_such:mine", "smallbatch.none:mine", "nothing", ""])
def test_a_line_of_MODELS_that_names_nothing_is_told(place, monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", place)
    with pytest.raises(
        UserError, match=r"MODELS: .* is not allowed; allowed: MODULE:FUNCTION of a module that is there"
    ):
        models.content("mine")
