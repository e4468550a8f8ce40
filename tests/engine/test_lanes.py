"""A lane equals its run trained alone, for every model and normalisation, over a whole training."""

import pytest
import torch
from helpers import a_run, check_fields
from helpers.lanes import train
from safetensors.torch import load
from torch import nn

from smallbatch.data import prepared
from smallbatch.models import MODELS, build
from smallbatch.models.normalisation import WINDOW, micro_batch_momenta
from smallbatch.runs.records import Epoch
from smallbatch.training import lane_layers
from smallbatch.training.batches import Batches
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def update(training, images, labels, factor):
    """One update on images [m, lanes * c, h, w], labels [m, lanes] at eta * factor; returns losses [lanes]."""
    return training.engine.make(Batches(images[None], labels[None]), [factor])[0]


NORMS = [
    ("none", None, {}),
    ("batch", 4, {}),
    ("batch", 2, {}),
    ("group", None, {}),
    ("batch", 4, {"norm_layers": "conv"}),
    ("none", None, {"momentum": 0.9, "momentum_scaled": True}),
]


def test_a_field_that_differs_is_named_with_both_numbers():
    one, other = Epoch(1, 0.1, 2.0, 1.5, 0.5, float("nan")), Epoch(1, 0.1, 2.0, 1.25, 0.5, float("nan"))
    check_fields(one, one, rel=1e-6)
    check_fields(one, other, rel=0.3)
    with pytest.raises(AssertionError, match=r"^test_loss: 1\.5, not 1\.25"):
        check_fields(one, other, rel=1e-6)


def some_runs(model, norm, b, more):
    """Three runs of one setting, of two seeds and three rates."""
    setting = {"model": model, "norm": norm, "warmup": True, "augment_pad": 1, "augment_flip": True, **more}
    return [a_run(b=b, base_lr=lr, seed=seed, **setting) for lr, seed in ((2**-9, 1), (2**-8, 2), (2**-10, 1))]


def put(alone, together, lane):
    """Bring a lane that is trained alone to where it is in a group."""
    alone.state.epoch, alone.state.step = together.state.epoch, together.state.step
    for name, own in alone.state.model.state_dict().items():
        own[0].copy_(together.state.model.state_dict()[name][lane])
    for own, other in zip(alone.state.optimizer.state, together.state.optimizer.state, strict=True):
        own[0].copy_(other[lane])


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "b", "more"), NORMS)
@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("resnet32", "resnet50")])
def test_each_update_of_a_lane_is_that_of_its_run_alone(model, norm, b, more, data_folder, double):
    """Updates of all parts of a training, of 32, each from equal weights: over several, statistics over two examples
    multiply what rounding differs by, a thousandfold an update, and the processor would decide."""
    data, runs = prepared.read(data_folder), some_runs(model, norm, b, more)
    together, alone = LaneTrainer(runs, data, CPU), [LaneTrainer([run], data, CPU) for run in runs]
    for update in (0, 1, 2, 15, 16, 24, 31):
        together.state.epoch, together.state.step = divmod(update, together.loader.steps)
        for lane, own in enumerate(alone):
            put(own, together, lane)
        losses = together.train_block(together.plan(), together.state.step + 1)
        for lane, own in enumerate(alone):
            torch.testing.assert_close(own.train_block(own.plan(), own.state.step + 1)[0, 0], losses[0, lane])
            for name, value in own.state.model.state_dict().items():
                other = together.state.model.state_dict()[name][lane]
                torch.testing.assert_close(value[0], other, rtol=1e-8, atol=1e-10, msg=f"{name} in update {update}")


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "b", "more"), NORMS)
@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("resnet32", "resnet50")])
def test_a_lane_ends_like_its_run_alone(model, norm, b, more, data_folder, tmp_path, double):
    """A whole training, of one update an epoch: rounding has no time to grow."""
    data, runs = prepared.read(data_folder), some_runs(model, norm, b, {"train_images": 4, **more})
    together = train(runs, data, tmp_path)
    for run in runs:
        outcome, weights = together[run]
        alone, alone_weights = train([run], data, tmp_path)[run]
        assert outcome.diverged_at is None and len(outcome.epochs) == 2
        for epoch, epoch_alone in zip(outcome.epochs, alone.epochs, strict=True):
            check_fields(epoch, epoch_alone, rel=1e-8)
        ours, theirs = load(weights), load(alone_weights)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("model", "norm"), [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")])
def test_in_single_precision_they_differ_by_rounding_only(model, norm, data_folder, tmp_path, either_way):
    data = prepared.read(data_folder)
    runs = [a_run(batch_size=16, base_lr=2**-10, seed=seed, model=model, norm=norm) for seed in (1, 2, 3)]
    together = train(runs, data, tmp_path)
    for run in runs:
        alone, _ = train([run], data, tmp_path)[run]
        last, last_alone = together[run][0].epochs[-1], alone.epochs[-1]
        check_fields(last, last_alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "b"), [("none", 4), ("batch", 4), ("batch", 2), ("group", 4)])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "resnet50"])
def test_forward_and_gradients_of_each_lane_are_its_own(model, norm, b, double):
    check_forward_and_gradients(3, model, norm, b)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_resnet50_too_has_lanes(count, double):
    check_forward_and_gradients(count, "resnet50", "batch", 2)


def check_forward_and_gradients(count, model, norm, b):
    alone = [build(model, (2, 8, 8), 5, norm=norm, bn_batch_size=b, seed=seed) for seed in range(count)]
    stacked = lane_layers.stack(alone)
    x = torch.randn(4, count, 2, 8, 8)
    together = stacked(x.flatten(1, 2)).unflatten(1, (count, 5))
    together.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in stacked.named_parameters()}
    for lane, net in enumerate(alone):
        logits = net(x[:, lane])
        logits.square().sum().backward()
        torch.testing.assert_close(together[:, lane], logits)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(gradients[name][lane], parameter.grad, rtol=1e-6, atol=1e-8)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(stacked.state_dict()[name][lane], buffer)


def test_a_diverged_lane_poisons_no_other_and_costs_nothing_more(data_folder, tmp_path, either_way):
    data = prepared.read(data_folder)
    sound, wild = a_run(base_lr=2**-9, epochs=3), a_run(base_lr=2**20, epochs=3)
    together = train([wild, sound], data, tmp_path)
    outcome, weights = together[wild]
    assert outcome.diverged_at is not None and outcome.diverged_at <= 16 and outcome.epochs == [] and weights is None
    assert outcome.images == 4 * outcome.diverged_at
    alone, _ = train([sound], data, tmp_path)[sound]
    check_fields(together[sound][0].epochs[-1], alone.epochs[-1], rel=1e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_an_update_is_that_of_plain_sgd(weight_decay, data_folder, either_way):
    data = prepared.read(data_folder)
    runs = [a_run(base_lr=lr, seed=seed, weight_decay=weight_decay) for lr, seed in ((2**-9, 1), (2**-6, 2))]
    training = LaneTrainer(runs, data, CPU)
    images, labels = training.loader.batches(training.loader.plan([1, 2], 0), 0, 1)
    update(training, images[0], labels[0], 0.5)
    for lane, run in enumerate(runs):
        alone = training.initial_model(run.seed)
        optimiser = torch.optim.SGD(alone.parameters(), lr=0.5 * run.base_lr * 4, weight_decay=weight_decay)
        nn.functional.cross_entropy(alone(images[0, :, lane : lane + 1]), labels[0, :, lane]).backward()
        before = {name: value.clone() for name, value in alone.state_dict().items()}
        optimiser.step()
        for name, value in lane_layers.lane_state(training.state.model, lane).items():
            ours, theirs = value - before[name], alone.state_dict()[name] - before[name]
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_weight_decay_too_small_for_a_factor_of_float32_acts_as_in_plain_sgd(data_folder, either_way):
    """1 - eta * weight_decay is 1 in float32 here; added to the gradient the decay still counts on the whole."""
    data = prepared.read(data_folder)
    ends = {}
    for decay in (5e-4, 0.0):
        run = a_run(base_lr=2**-12, batch_size=2, weight_decay=decay)
        training = LaneTrainer([run], data, CPU)
        alone = training.initial_model(run.seed)
        start = {name: value.double() for name, value in lane_layers.lane_state(training.state.model, 0).items()}
        images, labels = training.loader.batches(training.loader.plan([1], 0), 0, 1)
        update(training, images[0], labels[0], 0.1)
        nn.functional.cross_entropy(alone(images[0]), labels[0, :, 0]).backward()
        torch.optim.SGD(alone.parameters(), lr=0.1 * 2**-12 * 2, weight_decay=decay).step()
        ends[decay] = lane_layers.lane_state(training.state.model, 0), alone.state_dict()
    ours, theirs = (
        sum(((free[name].double() - decayed[name].double()) * value).sum() for name, value in start.items()).item()
        for free, decayed in zip(ends[0.0], ends[5e-4], strict=True)
    )
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("scaled", [False, True])
def test_momentum_is_that_of_torch(scaled, data_folder, double):
    """Over some updates, with a lane leaving in between."""
    data = prepared.read(data_folder)
    options = {"momentum": 0.9, "momentum_scaled": scaled, "weight_decay": 0.3}
    runs = [a_run(base_lr=lr, seed=seed, **options) for lr, seed in ((2**-9, 1), (2**-12, 2), (2**-10, 3))]
    training = LaneTrainer(runs, data, CPU)
    alone = training.initial_model(2)
    rate = 2**-12 * 4 * (0.1 if scaled else 1)
    optimiser = torch.optim.SGD(alone.parameters(), lr=rate, momentum=0.9, weight_decay=0.3)
    images, labels = training.loader.batches(training.loader.plan([2], 0), 0, 6)
    for step, (x, y) in enumerate(zip(images, labels, strict=True)):
        if step == 3:
            training.drop({0: 1}, lambda *result: None)
        count = len(training.state.runs)
        update(training, x.repeat(1, count, 1, 1), y.repeat(1, count), 1.0)
        optimiser.zero_grad()
        nn.functional.cross_entropy(alone(x), y[:, 0]).backward()
        optimiser.step()
    ours = lane_layers.lane_state(training.state.model, 0)
    for name, theirs in alone.state_dict().items():
        # Learning rates are rounded to single precision in every precision.
        torch.testing.assert_close(ours[name], theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("images_at_once", [2, 4, 5])
@pytest.mark.parametrize(("model", "norm", "b"), [("resnet8", "batch", 2), ("alexnet", "none", None)])
def test_a_mini_batch_in_parts_is_that_at_once(model, norm, b, images_at_once, data_folder, double):
    data = prepared.read(data_folder)
    runs = [a_run(batch_size=8, b=b, model=model, norm=norm, seed=seed) for seed in (1, 2)]
    whole, parts = (LaneTrainer(runs, data, CPU, images_at_once=most) for most in ("auto", images_at_once))
    assert parts.state.network.micro_batch == (4 if images_at_once == 5 and b else images_at_once)
    images, labels = whole.loader.batches(whole.plan(), 0, 3)
    for x, y in zip(images, labels, strict=True):
        torch.testing.assert_close(update(parts, x, y, 1.0), update(whole, x, y, 1.0))
    for name, theirs in whole.state.model.state_dict().items():
        torch.testing.assert_close(parts.state.model.state_dict()[name], theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("whole", [8, 2 * WINDOW])
def test_parts_leave_the_running_statistics_of_all_at_once(whole):
    old, sizes, means = 7.0, [4, 2, 2], [1.0, 2.0, 5.0]
    new = old
    for momentum, mean in zip(micro_batch_momenta(sizes, whole), means, strict=True):
        new += momentum * (mean - new)
    weight = min(1, whole / WINDOW)
    assert new == pytest.approx((1 - weight) * old + weight * (4 * 1 + 2 * 2 + 2 * 5) / 8)


@pytest.mark.parametrize(("model", "norm"), [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")])
def test_bf16_rounds_products_and_keeps_weights_and_losses(model, norm, data_folder, tmp_path):
    data = prepared.read(data_folder)
    losses = {}
    for precision in ("float32", "bf16"):
        runs = [a_run(batch_size=8, model=model, norm=norm, seed=seed, precision=precision) for seed in (1, 2)]
        training = LaneTrainer(runs, data, CPU)
        images, labels = training.loader.batches(training.plan(), 0, 1)
        losses[precision] = update(training, images[0], labels[0], 1.0)
        assert losses[precision].dtype == torch.float32
        assert all(tensor.dtype == torch.float32 for tensor in training.state.model.state_dict().values())
        alone = LaneTrainer(runs[1:], data, CPU)
        own = update(alone, images[0, :, 1:], labels[0, :, 1:], 1.0)
        torch.testing.assert_close(own, losses[precision][1:], rtol=2e-2, atol=0)
    assert not torch.equal(*losses.values())
    torch.testing.assert_close(losses["bf16"], losses["float32"], rtol=5e-2, atol=0)
    (outcome, weights), *_ = train(runs, data, tmp_path).values()
    assert outcome.epochs[-1].test_loss > 0 and all(tensor.dtype == torch.float32 for tensor in load(weights).values())


def test_select_keeps_the_lanes_asked_for():
    alone = [build("resnet8", (1, 8, 8), 3, norm="batch", bn_batch_size=2, seed=seed) for seed in range(3)]
    stacked = lane_layers.stack(alone)
    lane_layers.keep_lanes(stacked, [2, 0])
    for lane, net in ((0, alone[2]), (1, alone[0])):
        state = lane_layers.lane_state(stacked, lane)
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(stacked.eval()(x)[:, :3], alone[2].eval()(x[:, :1]), rtol=1e-4, atol=1e-4)


def test_a_layer_without_lane_form_is_named():
    with pytest.raises(lane_layers.NoLaneForm, match="PReLU has parameters but no lane form"):
        lane_layers.stack([nn.Sequential(nn.Linear(2, 2), nn.PReLU())])
