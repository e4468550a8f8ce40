"""The variance of an update: against its exact value, as a part of runs, and without a trace in training."""

import numpy as np
import pytest
import torch
from helpers import a_run, made_data
from helpers.lanes import train_instead
from torch import nn
from torch.nn import functional as F

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.models import build
from smallbatch.runs.records import METRICS_FILE, VARIANCE_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training import variance
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
SIZES = (2, 8, 32)


@pytest.fixture
def linear(monkeypatch):
    """A linear model in place of the run's, with the same weights for every seed."""

    def model(seed):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    train_instead(monkeypatch, model)


@pytest.fixture
def cuts(monkeypatch):
    """The order of each plan that is measured, [mini-batches, m, lanes]."""
    seen, spreads = [], variance._spreads
    monkeypatch.setattr(variance, "_spreads", lambda updates, plan: seen.append(plan.order) or spreads(updates, plan))
    return seen


def gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the mean loss, in one row."""
    own = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    return torch.cat([part.flatten() for part in own]).double()


def example_variance(training: LaneTrainer) -> float:
    """S^2: of each example's gradient at the initial weights, from its own backward pass."""
    loader, model = training.loader, training.initial_model(1)
    images = loader._normalised(loader.train_images.images)
    own = [gradient(model, image[None], label[None]) for image, label in zip(images, loader.train_labels, strict=True)]
    return torch.stack(own).var(0).sum().item()


def test_the_estimate_has_no_bias_at_any_size_and_grows_linearly(data_folder, linear):
    """64 images: at m = 32 a factor of 1 - m / M would halve it."""
    runs = [a_run(seed=seed, variance_batch_sizes=SIZES) for seed in range(100)]
    training = LaneTrainer(runs, prepared.read(data_folder), CPU)
    exact = example_variance(training)
    lanes = variance.measure(training.engine, runs, 0)
    assert [(row.epoch, row.batch_size, row.draws) for row in lanes[0]] == [(0, 2, 32), (0, 8, 32), (0, 32, 32)]
    for place, size in enumerate(SIZES):
        # eta^2 S^2 / m, and eta = eta_base m
        ratios = [rows[place].trace / (2**-16 * size * exact) for rows in lanes]
        error = np.std(ratios) / 10
        assert error < 0.04 and abs(np.mean(ratios) - 1) < 3 * error


def test_each_size_has_the_same_examples_each_once_in_the_same_order_first(data_folder, linear, cuts):
    runs = [a_run(seed=seed, variance_batch_sizes=(2, 8, 28)) for seed in (1, 2)]
    variance.measure(LaneTrainer(runs, prepared.read(data_folder), CPU).engine, runs, 0)
    # Of 64 images 56 fill batches of 28: 28, 7 and 2 batches, in as many orders as give 32.
    assert [tuple(order.shape) for order in cuts] == [(28, 2, 2)] * 2 + [(7, 8, 2)] * 5 + [(2, 28, 2)] * 16
    for lane in range(2):
        orders = [order[:, :, lane].flatten() for order in cuts]
        once = orders[0].sort().values
        assert len(once.unique()) == 56
        assert all(torch.equal(order.sort().values, once) for order in orders)
        assert torch.equal(orders[0], orders[2]) and torch.equal(orders[0], orders[7])
        assert len({tuple(order.tolist()) for order in orders}) == 16
    assert not torch.equal(cuts[0][:, :, 0], cuts[0][:, :, 1])


def test_orders_come_from_seed_and_epoch_alone(data_folder, linear, cuts):
    data, runs = prepared.read(data_folder), [a_run(seed=seed, variance_batch_sizes=(2, 32)) for seed in (1, 2)]
    training = LaneTrainer(runs, data, CPU)
    together, alone = variance.measure(training.engine, runs, 1), LaneTrainer(runs[1:], data, CPU)
    first, both = len(cuts), list(cuts)
    for mine, other in zip(variance.measure(alone.engine, runs[1:], 1)[0], together[1], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    for ours, theirs in zip(both, cuts[first:], strict=True):
        assert torch.equal(ours[:, :, 1:], theirs)
    variance.measure(alone.engine, runs[1:], 2)
    assert not torch.equal(cuts[first], cuts[2 * first])


@pytest.mark.slow
@pytest.mark.parametrize("b", [4, 2])
@pytest.mark.usefixtures("double")
def test_with_batch_statistics_it_is_the_covariance_of_those_mini_batches(data_folder, cuts, b):
    """Of all of a mini-batch where b = m, else of sub-batches of b: against models of their own, batch by batch."""
    run = a_run(model="resnet8", norm="batch", b=b, variance_batch_sizes=(4, 16))
    training = LaneTrainer([run], prepared.read(data_folder), CPU)
    rows, loader = variance.measure(training.engine, [run], 0)[0], training.loader
    images = loader._normalised(loader.train_images.images)
    for row, sub_batch in zip(rows, (4, 16) if b == 4 else (2, 2), strict=True):
        model = build("resnet8", (1, 8, 8), 4, norm="batch", bn_batch_size=sub_batch, seed=1)
        own = [order[:, :, 0] for order in cuts if order.shape[1] == row.batch_size]
        found = [torch.stack([gradient(model, images[at], loader.train_labels[at]) for at in order]) for order in own]
        exact = np.mean([gradients.var(0).sum().item() for gradients in found])
        assert row.trace == pytest.approx(2**-16 * row.batch_size**2 * exact, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "b"), [("none", 8), ("batch", 8), ("batch", 4)])
def test_kernels_measure_what_torch_does(data_folder, norm, b):
    run = a_run(batch_size=8, b=b, norm=norm, variance_batch_sizes=(4, 16, 32))
    data = prepared.read(data_folder)
    training = LaneTrainer([run], data, CPU)
    kinds = training.engine, EagerEngine(training.state.network, training.state.optimizer, training.loader)
    ours, theirs = (variance.measure(updates, [run], 0)[0] for updates in kinds)
    assert all(mine == pytest.approx(other, rel=1e-3) for mine, other in zip(ours, theirs, strict=True))


def test_where_the_rate_grows_with_the_root_the_variance_does_not_depend_on_m(tmp_path, linear):
    data = prepared.read(made_data(tmp_path / "made", train=512))
    run = a_run(variance_batch_sizes=(2, 32), lr_scaling="sqrt")
    training = LaneTrainer([run], data, CPU)
    small, large = variance.measure(training.engine, [run], 0)[0]
    assert small.trace == pytest.approx(large.trace, rel=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"norm": "group"}, {"norm": "batch", "batch_size": 8}, {"norm": "batch", "b": 2}])
def test_measuring_leaves_no_trace_in_training(data_folder, tmp_path, monkeypatch, either_way, kind):
    monkeypatch.setattr(variance, "MIN_MINI_BATCHES", 4)
    plain = {"momentum": 0.9, "augment_flip": True, "base_lr": 2**-12, **kind}
    runs = [a_run(seed=seed, **plain, variance_batch_sizes=sizes) for sizes in ((), SIZES) for seed in (1, 2)]
    train_pack(runs, data_folder, tmp_path, keep_weights="all")
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    for without, measured in zip(runs[:2], runs[2:], strict=True):
        folders = [store.folder(run, fingerprint) for run in (without, measured)]
        for one, other in (
            [folder / METRICS_FILE for folder in folders],
            [store.weights(store.read(folder.name)) for folder in folders],
        ):
            assert one.read_bytes() == other.read_bytes()
        rows = store.find(measured, fingerprint).outcome.variance
        assert [(row.epoch, row.batch_size) for row in rows] == [(e, m) for e in (0, 1, 2) for m in SIZES]
        assert all(row.trace > 0 for row in rows)
        assert not (store.folder(without, fingerprint) / VARIANCE_FILE).exists()


def test_a_diverged_run_keeps_what_was_measured(data_folder, tmp_path):
    wild = a_run(base_lr=2.0**40, variance_batch_sizes=(2,))
    train_pack([wild, a_run(variance_batch_sizes=(2,))], data_folder, tmp_path)
    outcome = RunStore(tmp_path).find(wild, prepared.read(data_folder).meta.fingerprint).outcome
    assert outcome.diverged_at and [row.epoch for row in outcome.variance] == [0]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (
            {"norm": "batch", "variance_batch_sizes": (1, 2)},
            "1 is not allowed; allowed: numbers from 2 with norm: batch",
        ),
        ({"norm": "batch", "b": 2, "variance_batch_sizes": (2, 5)}, "5 is not allowed; allowed: multiples of the BN b"),
        (
            {"variance_batch_sizes": (2, 33)},
            "33 is not allowed; allowed: numbers up to 32, half the images of an epoch",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(data_folder, tmp_path, run, reason):
    with pytest.raises(UserError, match=f"variance_batch_sizes: {reason}"):
        train_pack([a_run(**run)], data_folder, tmp_path)


def test_points_are_epochs_once_each():
    assert variance.epochs_measured(a_run(epochs=2, variance_batch_sizes=(2,)).setting) == {0, 1, 2}
    assert variance.epochs_measured(a_run(epochs=80, variance_batch_sizes=(2,)).setting) == {0, 8, 40, 80}
    assert variance.epochs_measured(a_run(epochs=80).setting) == set()
