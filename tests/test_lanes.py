"""A lane equals its run trained alone, for every model and normalisation, over a whole training."""

import pytest
import torch
from conftest import a_run
from safetensors.torch import load
from torch import nn

from smallbatch.data import prepared
from smallbatch.errors import UserError
from smallbatch.models import MODELS, build
from smallbatch.training import lanes
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engine import LaneTraining
from smallbatch.training.progress import Progress

CPU = torch.device("cpu")


def train(runs, data, tmp_path):
    """Outcomes and weights of runs trained as lanes of one group."""
    results = {}
    progress = Progress(1)
    progress.begin("test", len(runs), runs[0].setting.epochs, 64)
    training = LaneTraining(runs, data, CPU)
    training.train(lambda run, *result: results.update({run: result}), Checkpoint(tmp_path / "c.pt"), progress)
    return results


@pytest.fixture
def double(monkeypatch):
    """Double precision, so that what differs is logic and not rounding (batches of 2 amplify rounding without end)."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


NORMS = [
    ("none", None, {}),
    ("batch", 4, {}),
    ("batch", 2, {}),
    ("group", None, {}),
    ("batch", 4, {"norm_layers": "conv"}),
]


@pytest.mark.parametrize(("norm", "b", "more"), NORMS)
@pytest.mark.parametrize("model", [name for name in MODELS if name != "resnet32"])
def test_a_lane_equals_its_run_alone(model, norm, b, more, data_folder, tmp_path, double):
    data = prepared.read(data_folder)
    setting = {"model": model, "norm": norm, "warmup": True, "augment_pad": 1, "augment_flip": True, **more}
    runs = [a_run(b=b, base_lr=lr, seed=seed, **setting) for lr, seed in ((2**-9, 1), (2**-8, 2), (2**-10, 1))]
    together = train(runs, data, tmp_path)
    for run in runs:
        outcome, weights = together[run]
        alone, alone_weights = train([run], data, tmp_path)[run]
        assert outcome.diverged_at is None
        for epoch, epoch_alone in zip(outcome.epochs, alone.epochs, strict=True):
            assert epoch == pytest.approx(epoch_alone, rel=1e-6)
        ours, theirs = load(weights), load(alone_weights)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("model", "norm"), [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")])
def test_in_single_precision_they_differ_by_rounding_only(model, norm, data_folder, tmp_path):
    data = prepared.read(data_folder)
    runs = [a_run(batch_size=16, base_lr=2**-10, seed=seed, model=model, norm=norm) for seed in (1, 2, 3)]
    together = train(runs, data, tmp_path)
    for run in runs:
        alone, _ = train([run], data, tmp_path)[run]
        assert together[run][0].epochs[-1] == pytest.approx(alone.epochs[-1], rel=1e-4)


@pytest.mark.parametrize(("norm", "b"), [("none", 4), ("batch", 4), ("batch", 2), ("group", 4)])
@pytest.mark.parametrize("model", MODELS)
def test_forward_and_gradients_of_each_lane_are_its_own(model, norm, b, double):
    alone = [build(model, (2, 8, 8), 5, norm=norm, bn_batch_size=b, seed=seed) for seed in range(3)]
    stacked = lanes.stack(alone)
    x = torch.randn(4, 3, 2, 8, 8)
    together = stacked(x.flatten(1, 2)).unflatten(1, (3, 5))
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


def test_a_diverged_lane_poisons_no_other_and_costs_nothing_more(data_folder, tmp_path):
    data = prepared.read(data_folder)
    sound, wild = a_run(base_lr=2**-9, epochs=3), a_run(base_lr=2**20, epochs=3)
    together = train([wild, sound], data, tmp_path)
    outcome, weights = together[wild]
    assert outcome.diverged_at is not None and outcome.diverged_at <= 16 and outcome.epochs == [] and weights is None
    assert outcome.images == 4 * outcome.diverged_at
    alone, _ = train([sound], data, tmp_path)[sound]
    assert together[sound][0].epochs[-1] == pytest.approx(alone.epochs[-1], rel=1e-3)


def test_select_keeps_the_lanes_asked_for():
    alone = [build("resnet8", (1, 8, 8), 3, norm="batch", bn_batch_size=2, seed=seed) for seed in range(3)]
    stacked = lanes.stack(alone)
    lanes.select(stacked, [2, 0])
    for lane, net in ((0, alone[2]), (1, alone[0])):
        state = lanes.lane_state(stacked, lane)
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(stacked.eval()(x)[:, :3], alone[2].eval()(x[:, :1]), rtol=1e-4, atol=1e-4)


def test_a_layer_without_lane_form_is_named():
    with pytest.raises(UserError, match="PReLU has parameters but no lane form"):
        lanes.stack([nn.Sequential(nn.Linear(2, 2), nn.PReLU())])
