"""The Triton kernels in Triton's interpreter, on the CPU; `test_triton` runs this in a process of its own.

Whether a kernel is interpreted is settled when Triton is imported, for good.
"""

import math
import os

os.environ["TRITON_INTERPRET"] = "1"


from typing import ClassVar

import pytest
import torch
from helpers import a_run, check_fields, made_data
from torch import nn
from torch.nn import functional as F

from smallbatch import models
from smallbatch.data import prepared
from smallbatch.models import build
from smallbatch.models.normalisation import BatchNorm
from smallbatch.models.resnet import Shortcut
from smallbatch.training import lane_layers, variance
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines import backends, cuda_graphs
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.trace import Graph
from smallbatch.training.engines.triton_kernels import layer_layout
from smallbatch.training.engines.triton_kernels.engine import TritonEngine
from smallbatch.training.engines.triton_kernels.inference import Inference
from smallbatch.training.engines.triton_kernels.program import Program
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.progress import Progress
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
DECAY = 0.1


class Odd(nn.Module):
    """Sizes and channels that fit no tile, kernels that are no square, strides, residuals of all kinds, two pools."""

    def __init__(self, b):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.norm = BatchNorm(5, b)
        self.second = nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.cut = Shortcut(4)
        self.wide = nn.Conv2d(5, 9, 3, stride=2, padding=1)
        self.narrow = nn.Conv2d(9, 18, (2, 1))
        self.pool, self.mean = nn.MaxPool2d(2, stride=1, padding=1), nn.AdaptiveAvgPool2d((1, 3))
        self.last = nn.Linear(18 * 3, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x) + x)
        x = F.relu(self.wide(x) + self.cut(x))
        x = self.pool(F.relu(self.narrow(x)))
        return self.last(self.mean(x).flatten(1))


class Thirds(nn.Module):
    """A stride above the kernel, so that some pixels have no gradient; a first layer that covers its image."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 17, 2, stride=3), nn.Linear(17 * 4, 3)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))).flatten(1))


def small(shape, classes, norms):
    """A model of the project, as far as it knows."""
    conv = nn.Conv2d(shape[0], 6, 3, padding=1)
    return nn.Sequential(conv, norms.conv(6), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(6, classes))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 17), nn.ReLU(), nn.Linear(17, 3))


def normed():
    """Batch statistics over more rows than one program takes."""
    conv, pool = nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(conv, BatchNorm(3, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(3, 3))


def project(name, norm="none", b=1, shape=(3, 4, 4)):
    return lambda: build(name, shape, 3, norm=norm, bn_batch_size=b)


CASES = {
    "alexnet": (project("alexnet"), (3, 4, 4), 2, 2),
    "alexnet, batch norm": (project("alexnet", "batch", 3, (1, 5, 3)), (1, 5, 3), 3, 3),
    "resnet8, sub-batches": (project("resnet8", "batch", 2, (2, 6, 6)), (2, 6, 6), 4, 2),
    "resnet8": (project("resnet8", shape=(3, 3, 5)), (3, 3, 5), 3, 3),
    "odd": (lambda: Odd(3), (3, 7, 5), 6, 3),
    "many rows": (normed, (1, 24, 25), 2, 1),
    "m = 1": (Thirds, (1, 5, 6), 1, 1),
    "m = 100": (perceptron, (3, 4, 5), 100, 100),
}


def network_of(models, shape, m, b):
    more = {"batch_size": m, "bn_batch_size": b, "images_at_once": "auto", "pixels": shape[1] * shape[2]}
    return Network(lane_layers.stack(models), **more, precision="float32", device=CPU, world=ALONE)


def tensors_of(network):
    return dict(network.model.named_parameters()) | dict(network.model.named_buffers())


def program_of(alone, network, sgd, shape, m, b):
    graph, model = Graph(alone, shape), network.model
    layer_layout.check(graph, m)
    names = [name for name, _ in model.named_parameters()]
    velocities = dict(zip(names, sgd.state, strict=True)) if sgd.state else {}
    return Program(graph, tensors_of(network), velocities, m=m, sub_batch=b, precision="float32", sgd=sgd)


def drawn(make, count):
    """Models of different weights, also where a fresh model has zeros and ones."""
    torch.manual_seed(0)
    return [lane_layers.perturbed(make(), seed) for seed in range(count)]


def examples(shape, m, count, classes=3):
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(m, count * shape[0], *shape[1:], generator=draws)
    return images, torch.randint(classes, (m, count), generator=draws)


def stepped(kernels, sgd, images, labels):
    with torch.no_grad():
        kernels.load()
        losses = kernels.step(images, labels, sgd.negative_rates([0.5])[0])
        kernels.store()
    return losses


@pytest.mark.parametrize("case", ["odd", "m = 1", "m = 100"])
def test_logits_are_those_of_torch(case):
    """Of images that both lanes see, by running statistics; after an update, too."""
    make, shape, m, b = CASES[case]
    network = network_of(drawn(make, 2), shape, m, b)
    ours = Inference(Graph(make(), shape), tensors_of(network), 4, "float32")
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        theirs = network.logits(images)
        torch.testing.assert_close(ours.compute(images), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
        with torch.no_grad():
            for parameter in network.parameters:
                parameter.mul_(1.5)


def state_of(network, sgd):
    named = dict(network.model.state_dict()) | {f"velocity {i}": v for i, v in enumerate(sgd.state)}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_autograd_in_double_precision(case, momentum):
    make, shape, m, b = CASES[case]
    if momentum and case not in ("odd", "m = 100"):
        pytest.skip("one of each kind of update is enough")
    count = 1 if case.startswith(("alexnet", "resnet8")) else 2
    models = drawn(make, count)
    ours, theirs = network_of(models, shape, m, b), network_of([model.double() for model in models], shape, m, b)
    etas = [0.05, 0.01][:count]
    sgd, exact = (LaneSGD(network.parameters, etas, DECAY, momentum) for network in (ours, theirs))
    for velocity, other in zip(sgd.state, exact.state, strict=True):
        other.copy_(velocity.normal_())
    kernels = program_of(make(), ours, sgd, shape, m, b)
    images, labels = examples(shape, m, count)
    before = state_of(ours, sgd)
    losses = stepped(kernels, sgd, images, labels)
    expected = theirs.gradients(images.double(), labels)
    exact.step(0.5)
    torch.testing.assert_close(losses, expected.float(), rtol=1e-5, atol=1e-6)
    changes = {name: tensor - before[name] for name, tensor in state_of(theirs, exact).items()}
    largest = max(change.norm() for change in changes.values())
    for name, tensor in state_of(ours, sgd).items():
        error = (tensor.double() - before[name] - changes[name]).norm() / max(changes[name].norm(), 1e-3 * largest)
        assert error < 2e-4, f"{name}: {error}"


def test_what_diverges_in_one_lane_leaves_the_other_bit_for_bit():
    make, shape, m, b = CASES["odd"]
    ends = []
    for poison in (1.0, float("inf")):  # of which sums and products make NaN, too
        network = network_of(drawn(make, 2), shape, m, b)
        sgd = LaneSGD(network.parameters, [0.05, 0.01], DECAY, 0.0)
        network.parameters[0].data[0] *= poison
        losses = stepped(program_of(make(), network, sgd, shape, m, b), sgd, *examples(shape, m, 2))
        assert losses[0].isfinite() == (poison == 1)
        ends.append([losses[1], *(tensor[1] for tensor in network.model.state_dict().values())])
    assert all(map(torch.equal, *ends))


class Rehearsed(TritonEngine):
    """As on a GPU, but for the capture."""

    recordings: ClassVar[list["Rehearsed"]] = []

    def capture(self, rehearse, programs, device):
        self.recordings.append(self)
        rehearse()
        return programs


@pytest.fixture
def small_is_known(monkeypatch):
    for names in (models.MODELS, models.BUILT_IN):
        monkeypatch.setitem(names, "small", f"{__name__}:small")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "can_capture", lambda network, loader: True)
    monkeypatch.setattr(backends.triton.devices, "triton_version", lambda device: "3")
    monkeypatch.setattr(backends.triton, "TritonEngine", Rehearsed)
    monkeypatch.setattr(cuda_graphs, "REPLAY_STEPS", 2)


def outcomes(runs, data, folder):
    results, progress = {}, Progress(1)
    progress.begin("test", ["a run"] * len(runs), runs[0].setting.epochs, 12)
    training = LaneTrainer(runs, data, CPU)
    training.train(lambda run, *result: results.update({run: result}), Checkpoint(folder / "c.pt"), progress)
    return results


def test_a_whole_training_is_that_of_torch(no_kernels, small_is_known, tmp_path, request):
    """With augmentation, warm-up, momentum, sub-batches, replays of two steps and one, and a lane that diverges."""
    setting = {"model": "small", "norm": "batch", "b": 2, "augment_pad": 1, "warmup": True, "momentum": 0.9}
    runs = [a_run(base_lr=base_lr, **setting) for base_lr in (2.0**-9, 2.0**100)]
    data = prepared.read(made_data(tmp_path / "data" / "made", train=12, test=8, shape=(1, 4, 4)))
    theirs = outcomes(runs, data, tmp_path)
    request.getfixturevalue("as_on_a_gpu")
    ours = outcomes(runs, data, tmp_path)
    assert len(Rehearsed.recordings) == 2  # one with all lanes, one without that which diverged
    for run in runs:
        (outcome, weights), (other, other_weights) = ours[run], theirs[run]
        assert (outcome.diverged_at, outcome.images) == (other.diverged_at, other.images)
        for epoch, other_epoch in zip(outcome.epochs, other.epochs, strict=True):
            check_fields(epoch, other_epoch, rel=2e-3)
        assert bool(weights) == bool(other_weights)
    assert not ours[runs[0]][0].diverged_at and ours[runs[1]][0].diverged_at


def test_labels_that_are_no_classes_are_refused(no_kernels, as_on_a_gpu, tmp_path):
    data = prepared.read(made_data(tmp_path / "data" / "made", train=12, classes=3))
    data.train.labels.setflags(write=True)
    data.train.labels[3] = 3
    with pytest.raises(Exception, match="labels: '0 to 3' is not allowed; allowed: 0 to 2, the classes"):
        LaneTrainer([a_run()], data, CPU)


VARIANCES = {
    "no norm": {"model": "small", "norm": "none"},
    "batch norm over each mini-batch": {"model": "small", "norm": "batch"},
    "batch norm over sub-batches": {"model": "small", "norm": "batch", "b": 2, "momentum": 0.9},
}


@pytest.mark.parametrize("kind", VARIANCES)
def test_the_variance_of_updates_is_that_of_torch(kind, no_kernels, small_is_known, as_on_a_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(variance, "MIN_MINI_BATCHES", 2)
    data = prepared.read(made_data(tmp_path / "data" / "made", train=8, test=8, shape=(1, 4, 4)))
    runs = [a_run(seed=seed, variance_batch_sizes=(2, 4), **VARIANCES[kind]) for seed in (1, 2)]
    training = LaneTrainer(runs, data, CPU)
    assert isinstance(training.engine, TritonEngine)
    before = {name: tensor.clone() for name, tensor in training.state.model.state_dict().items()}
    ours = variance.measure(training.engine, runs, 0)
    for name, tensor in training.state.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    theirs = variance.measure(EagerEngine(training.state.network, training.state.optimizer, training.loader), runs, 0)
    for lane, other in zip(ours, theirs, strict=True):
        for row, other_row in zip(lane, other, strict=True):
            check_fields(row, other_row, rel=1e-4)


def test_an_infinite_gradient_of_a_lane_leaves_its_weights_and_the_other_lane(
    no_kernels, small_is_known, as_on_a_gpu, tmp_path, monkeypatch
):
    monkeypatch.setattr(variance, "MIN_MINI_BATCHES", 2)
    data = prepared.read(made_data(tmp_path / "data" / "made", train=12, test=8, shape=(1, 4, 4)))
    runs = [a_run(seed=seed, variance_batch_sizes=(4,), model="small") for seed in (1, 2)]
    ends = []
    for poison in (0.0, math.inf):
        training = LaneTrainer(runs, data, CPU)
        with torch.no_grad():
            training.state.network.parameters[0][0] += poison
        before = {name: tensor.clone() for name, tensor in training.state.model.state_dict().items()}
        alone, other = variance.measure(training.engine, runs, 0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in training.state.model.state_dict().items())
        assert all(math.isfinite(row.trace) for row in alone) == (poison == 0)
        ends.append(other)
    assert ends[0] == ends[1]
