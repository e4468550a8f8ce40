"""The compiled kernels give what torch gives: values, gradients, updates, statistics."""

import itertools
import random

import pytest
import torch
from helpers import a_run, made_data
from helpers.lanes import train_instead
from torch import nn

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.models.normalisation import BatchNorm
from smallbatch.models.resnet import Shortcut
from smallbatch.training import lane_layers
from smallbatch.training.batches import Batches
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native import library
from smallbatch.training.engines.native.engine import NativeEngine
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library.compiler() is None, reason="no C++ compiler here"),
]


def by_torch(training):
    return EagerEngine(training.state.network, training.state.optimizer, training.loader)


def in_double(runs, data, batches, factors):
    """What torch makes of it in double precision: losses, the lanes' tensors, test logits."""
    exact = LaneTrainer(runs, data, CPU)
    exact.state.network.use_model(exact.state.model.double())
    velocity = [torch.zeros_like(p) for p in exact.state.network.parameters] if exact.state.optimizer.state else []
    exact.state.optimizer.use_parameters(exact.state.network.parameters, exact.state.optimizer.etas)
    exact.state.optimizer.state = velocity
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        losses = by_torch(exact).make(Batches(batches.images.double(), batches.labels), factors)
        images = next(exact.loader.test_batches(20))[0]
        return [losses, exact.state.model.state_dict(), exact.state.network.logits(images.double())]


def distance(ours, exact):
    """Relative, over all numbers together."""
    if isinstance(ours, dict):
        ours, exact = (torch.cat([values[key].double().flatten() for key in exact]) for values in (ours, exact))
    return ((ours - exact).norm() / exact.norm()).item()


def changes(start, training):
    return {name: value.double() - start[name] for name, value in training.state.model.state_dict().items()}


SETTINGS = [
    {"model": "alexnet"},
    {"model": "alexnet", "momentum": 0.9},
    {"model": "alexnet", "norm": "batch"},
    {"model": "alexnet", "norm": "batch", "norm_layers": "conv", "b": 4},
    {"model": "resnet8"},
    {"model": "resnet8", "norm": "batch", "b": 4, "augment_pad": 1, "augment_flip": True},
    {"model": "resnet20", "norm": "batch", "b": 8},
]

SHAPES = [(1, 8, 8), (3, 13, 10), (3, 32, 32)]


CASES = [*itertools.product(SETTINGS, [8, 24], SHAPES), ({"model": "resnet32", "norm": "batch", "b": 4}, 8, SHAPES[0])]
"""The deepest model at one size: it has no layer that the others have not, and takes as long as half of them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "batch_size", "shape"),
    CASES,
    ids=["-".join(map(str, [*s.values(), m, *shape])) for s, m, shape in CASES],
)
def test_updates_are_as_near_to_exact_ones_as_those_of_torch(setting, batch_size, shape, tmp_path):
    data = prepared.read(made_data(tmp_path / "made", shape=shape, classes=5))
    runs = [a_run(batch_size=batch_size, base_lr=2**-13, seed=seed, weight_decay=0.1, **setting) for seed in (1, 2)]
    ours, theirs = LaneTrainer(runs, data, CPU), LaneTrainer(runs, data, CPU)
    assert type(ours.engine) is NativeEngine
    batches, factors = ours.loader.batches(ours.plan(), 0, 2), [1.0, 0.5]
    images = next(ours.loader.test_batches(20))[0]
    start = {name: value.clone() for name, value in ours.state.model.state_dict().items()}
    found = ours.engine.make(batches, factors), changes(start, ours), ours.engine.logits(images)
    by = by_torch(theirs)
    reference = by.make(batches, factors), changes(start, theirs), by.logits(images)
    exact = in_double(runs, data, batches, factors)
    exact[1] = {name: value - start[name] for name, value in exact[1].items()}
    # Of a rectifier at zero rounding decides, in either: that is what the slack is for. Mistakes are larger.
    for own, other, right, slack in zip(found, reference, exact, (1e-5, 2e-2, 2e-3), strict=True):
        assert distance(own, right) < 5 * distance(other, right) + slack
    for own, other in zip(ours.state.optimizer.state, theirs.state.optimizer.state, strict=True):
        assert distance(own.double(), other.double()) < 2e-2


def test_every_lane_has_the_bits_that_it_has_alone(data_folder):
    data = prepared.read(data_folder)
    runs = [
        a_run(model="resnet8", norm="batch", seed=seed, base_lr=lr) for seed, lr in ((1, 2**-9), (2, 2**20), (3, 2**-8))
    ]
    together = LaneTrainer(runs, data, CPU)
    losses = together.train_block(together.plan(), 16)
    assert not losses[-1, 1].isfinite(), "the one in the middle has to diverge"
    for lane in (0, 2):
        alone = LaneTrainer([runs[lane]], data, CPU)
        assert torch.equal(alone.train_block(alone.plan(), 16)[:, 0], losses[:, lane])
        own = lane_layers.lane_state(together.state.model, lane)
        assert all(torch.equal(own[name], value[0]) for name, value in alone.state.model.state_dict().items())


def test_a_lane_that_diverges_stops_and_says_where(data_folder):
    data = prepared.read(data_folder)
    run = a_run(base_lr=2**20)
    ours, theirs = LaneTrainer([run], data, CPU), LaneTrainer([run], data, CPU)
    found, reference = (one.block(ours.plan(), 0, 16, [1.0] * 16) for one in (ours.engine, by_torch(theirs)))
    assert torch.equal(found.isfinite().cumprod(0), reference.isfinite().cumprod(0)) and not found.isfinite().all()


def test_what_is_not_a_number_is_not_rectified_away(data_folder):
    data = prepared.read(data_folder)
    for model, norm in (("alexnet", "none"), ("resnet8", "batch")):
        training = LaneTrainer([a_run(model=model, norm=norm)], data, CPU)
        with torch.no_grad():
            next(training.state.model.parameters())[0, 3] = torch.nan
        assert training.train_block(training.plan(), 1).isnan().all()
        assert training.engine.logits(next(training.loader.test_batches(3))[0]).isnan().all()


class Strange(nn.Module):
    """Convolutions of uneven form and stride, sums either way round, a mean pool of windows, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 20, (3, 1), padding=0, bias=False)
        self.conv2 = nn.Conv2d(20, 20, 3, padding=1)
        self.norm = BatchNorm(20, 4)
        self.conv3 = nn.Conv2d(20, 33, 5, stride=3, padding=2)
        self.conv4 = nn.Conv2d(33, 33, 1, bias=False)
        self.shortcut = Shortcut(7)
        self.conv5 = nn.Conv2d(40, 40, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d((1, 2))
        self.fc = nn.Linear(80, 5)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = (x + self.norm(self.conv2(x))).relu()
        y = nn.functional.relu(self.conv3(x))
        y = self.conv4(y) + y
        return self.fc(self.pool(self.conv5(self.shortcut(y))).flatten(1))


def test_an_unusual_model_has_the_same_gradients(tmp_path, monkeypatch):
    def build(seed):
        torch.manual_seed(seed)
        return Strange()

    train_instead(monkeypatch, build)
    data = prepared.read(made_data(tmp_path / "made", shape=(2, 14, 24), classes=5))
    runs = [a_run(model="alexnet", norm="batch", base_lr=2**-10, seed=seed) for seed in (1, 2)]
    ours, theirs = LaneTrainer(runs, data, CPU), LaneTrainer(runs, data, CPU)
    assert type(ours.engine) is NativeEngine
    batches = ours.loader.batches(ours.plan(), 0, 1)
    before = {name: value.clone() for name, value in ours.state.model.state_dict().items()}
    torch.testing.assert_close(ours.engine.make(batches, [1.0]), by_torch(theirs).make(batches, [1.0]))
    for name, theirs_now in theirs.state.model.state_dict().items():
        change, expected = ours.state.model.state_dict()[name] - before[name], theirs_now - before[name]
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item() + 1e-8)


class Grown(nn.Module):
    """Batch norm of 15 channels of deviations from 1 to 1e18 and 5 from 1e22 to 1e34, whose squares float32 lacks."""

    def __init__(self, b: int) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 20, 3, padding=1, bias=False)
        self.norm, self.fc = BatchNorm(20, b), nn.Linear(20 * 36, 4)
        with torch.no_grad():
            scales = torch.cat([torch.logspace(0, 18, 15), torch.logspace(22, 34, 5)])
            self.conv.weight.mul_(scales[:, None, None, None])
            self.norm.weight.copy_(torch.linspace(-1, 2, 20))

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(self.first(x)))).flatten(1))


@pytest.mark.parametrize("b", [8, 4])
def test_batch_norm_of_any_scale_is_that_of_double_precision_or_still(b, data_folder, monkeypatch):
    """Hopeless rates lead there. Beyond float32 a channel is its shift and learns nothing, as with a weight of zero."""

    def build(seed):
        torch.manual_seed(seed)
        return Grown(b)

    train_instead(monkeypatch, build)
    training = LaneTrainer([a_run(norm="batch", batch_size=8, b=b)], prepared.read(data_folder), CPU)
    assert type(training.engine) is NativeEngine
    images, labels = training.loader.batches(training.plan(), 0, 2)
    exact = build(1).double()
    with torch.no_grad():
        exact.norm.weight[15:] = 0
    loss = nn.functional.cross_entropy(exact(images[0].double()), labels[0, :, 0])
    loss.backward()
    exact.norm.weight.grad[15:] = 0
    names = [name for name, _ in training.state.model.named_parameters()]
    for name, own in zip(names, training.engine.gradients(images[0], labels[0]), strict=True):
        right = exact.get_parameter(name).grad
        # Channel by channel: the gradient of a channel's weights is smaller by as much as they are larger.
        channels = own[0].double().reshape(len(right), -1), right.reshape(len(right), -1)
        error, size = ((part.norm(dim=1)) for part in (channels[0] - channels[1], channels[1]))
        assert (error <= 1e-4 * size).all(), (name, error / size)
    losses = training.engine.make(Batches(images, labels), [0.0, 0.0])
    assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    var, logits = training.state.model.norm.running_var[0], training.engine.logits(images[0])
    assert var[:15].isfinite().all() and var[15:].isinf().all(), var
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, training.state.network.logits(images[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images_at_once", ["auto", 6, 4])
def test_parts_of_a_mini_batch_change_rounding_only(images_at_once, data_folder):
    data = prepared.read(data_folder)
    run = a_run(batch_size=64, base_lr=2**-12)
    ours, theirs = LaneTrainer([run], data, CPU, images_at_once=images_at_once), LaneTrainer([run], data, CPU)
    assert ours.engine.micro_batch <= (16 if images_at_once == "auto" else images_at_once)
    batches = ours.loader.batches(ours.plan(), 0, 1)
    torch.testing.assert_close(ours.engine.make(batches, [1.0]), by_torch(theirs).make(batches, [1.0]))
    for name, expected in theirs.state.model.state_dict().items():
        torch.testing.assert_close(ours.state.model.state_dict()[name], expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_other_numbers_of_examples_leave_the_weights_alone(data_folder):
    data = prepared.read(data_folder)
    ours, theirs = (LaneTrainer([a_run(seed=seed) for seed in (1, 2)], data, CPU) for _ in range(2))
    before = {name: value.clone() for name, value in ours.state.model.state_dict().items()}
    for count in (7, 2, 40):
        plan = ours.plan().first(count)
        images, labels = ours.loader.batches(plan, 0, 1)
        for own, other in zip(
            ours.engine.gradients(images[0], labels[0]), by_torch(theirs).gradients(images[0], labels[0]), strict=True
        ):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    assert all(torch.equal(value, before[name]) for name, value in ours.state.model.state_dict().items())


class Drawn(nn.Module):
    """A model of layers drawn at random: convolutions, normalisation, rectifiers, pools, shortcuts, residuals."""

    def __init__(self, draws: random.Random, b: int) -> None:
        super().__init__()
        self.layers, self.residual = nn.ModuleList(), set()
        channels, size = 3, 9
        for place in range(draws.randint(2, 6)):
            kind = "conv" if place == 0 else draws.choice(["conv", "residual", "max", "mean", "shortcut"])
            if kind in ("conv", "residual"):
                out = channels if kind == "residual" else draws.choice([1, 5, 16, 17, 20, 33])
                kernel = draws.choice([3, 3, 1, 5]) if size > 2 else 1
                stride = 1 if kind == "residual" else draws.choice([1, 1, 2, 3])
                layers = [nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=draws.random() < 0.6)]
                layers += [BatchNorm(out, b)] * (draws.random() < 0.4 and b > 1)
                layers += [nn.ReLU()] * (draws.random() < 0.6 and kind == "conv")
                channels, size = out, (size - 1) // stride + 1
            elif kind == "max":
                layers, size = [nn.MaxPool2d(3, 2, 1)], (size + 1) // 2
            elif kind == "mean":
                layers, size = [nn.AdaptiveAvgPool2d(size)], size
            else:
                new = draws.choice([0, 7, 16])
                layers, channels, size = [Shortcut(new)], channels + new, (size + 1) // 2
            if kind == "residual":
                self.residual.add(place)
            self.layers.append(nn.Sequential(*layers))
        self.fc = nn.Linear(channels * size * size, 5)

    def forward(self, x):
        for place, layer in enumerate(self.layers):
            x = layer(x) + x if place in self.residual else layer(x)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("number", range(60))
def test_drawn_models_are_trained_as_torch_trains_them(number, tmp_path, monkeypatch):
    draws = random.Random(number)
    m, b = draws.choice([(1, 1), (3, 3), (8, 4), (20, 20)])
    train_instead(monkeypatch, lambda seed: drawn(number, b, seed))
    data = prepared.read(made_data(tmp_path / "made", shape=(3, 9, 9), classes=5))
    momentum = draws.choice([0, 0.9])
    runs = [a_run(norm="batch" if b > 1 else "none", batch_size=m, b=b, base_lr=2**-9 / m, seed=seed, momentum=momentum)
            for seed in (1, 2)]  # fmt: skip
    ours, theirs = LaneTrainer(runs, data, CPU), LaneTrainer(runs, data, CPU)
    assert type(ours.engine) is NativeEngine
    batches, factors = ours.loader.batches(ours.plan(), 0, 3), [1.0] * 3
    start = {name: value.clone() for name, value in ours.state.model.state_dict().items()}
    found, by, exact = ours.engine.make(batches, factors), by_torch(theirs), in_double(runs, data, batches, factors)
    reference = by.make(batches, factors)
    exact[1] = {name: value - start[name] for name, value in exact[1].items()}
    own, other = distance(changes(start, ours), exact[1]), distance(changes(start, theirs), exact[1])
    assert own < 10 * other + 2e-2 and distance(found, exact[0]) < 10 * distance(reference, exact[0]) + 1e-4


def drawn(number, b, seed):
    torch.manual_seed(seed)
    return Drawn(random.Random(1000 + number), b)


def test_a_lane_that_is_not_a_number_leaves_nothing_to_the_next(data_folder, monkeypatch):
    """Hidden layers of as many features as there are classes: their gradients take the place of that of the logits."""

    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 4), nn.Linear(4, 4))

    train_instead(monkeypatch, build)
    data = prepared.read(data_folder)
    wild, sound = a_run(base_lr=2.0**90), a_run(base_lr=2**-9)
    together, alone = LaneTrainer([wild, sound], data, CPU), LaneTrainer([sound], data, CPU)
    losses = [training.train_block(training.plan(), 16) for training in (together, alone)]
    assert type(together.engine) is NativeEngine and not losses[0][:, 0].isfinite().all()
    assert torch.equal(losses[0][:, 1], losses[1][:, 0])


def test_gradients_that_are_not_numbers_leave_the_weights_alone(data_folder):
    training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    before = {name: value.clone() for name, value in training.state.model.state_dict().items()}
    images, labels = training.loader.batches(training.plan(), 0, 1)
    images[0, 0] = torch.inf
    assert not all(gradient.isfinite().all() for gradient in training.engine.gradients(images[0], labels[0]))
    assert all(torch.equal(value, before[name]) for name, value in training.state.model.state_dict().items())


@pytest.mark.parametrize("label", [-1, 4, 2**40])
def test_a_label_beyond_the_classes_is_refused_before_anything_is_updated(label, data_folder):
    training = LaneTrainer([a_run(seed=1), a_run(seed=2)], prepared.read(data_folder), CPU)
    before = {name: value.clone() for name, value in training.state.model.state_dict().items()}
    images, labels = training.loader.batches(training.plan(), 0, 3)
    labels[2, 3, 1] = label
    for refused in (
        lambda: training.engine.make(Batches(images, labels), [1.0] * 3),
        lambda: training.engine.gradients(images[2], labels[2]),
    ):
        with pytest.raises(UserError, match=r"^experiment on made: labels: .* is not allowed; allowed: 0 to 3, the cl"):
            refused()
    assert all(torch.equal(value, before[name]) for name, value in training.state.model.state_dict().items())
