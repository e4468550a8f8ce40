"""The variance of an update: against its exact value, as a part of runs, and without a trace in training."""

import numpy as np
import pytest
import torch
from conftest import a_run, made_data
from torch import nn
from torch.nn import functional as F

from smallbatch.data import prepared
from smallbatch.errors import UserError
from smallbatch.store import METRICS, VARIANCE, RunStore
from smallbatch.training import variance
from smallbatch.training.engine import LaneTraining
from smallbatch.training.pack import train_pack

CPU = torch.device("cpu")
SIZES = (2, 8, 32)


@pytest.fixture
def linear(monkeypatch):
    """A linear model in place of the run's."""

    def model(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    monkeypatch.setattr(LaneTraining, "_model", model)


def exact_trace(training: LaneTraining, seed: int, size: int) -> float:
    """tr Cov of the mean gradient of `size` of M examples drawn without replacement: tr S / size * (1 - size / M)."""
    feed, model = training.feed, training._model(seed)
    images = feed._normalised(feed.train_images.images)
    gradients = []
    for image, label in zip(images, feed.train_labels, strict=True):
        own = torch.autograd.grad(F.cross_entropy(model(image[None]), label[None]), list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in own]))
    return torch.stack(gradients).double().var(0).sum().item() / size * (1 - size / len(gradients))


def test_the_estimate_is_near_the_exact_value_and_grows_linearly(tmp_path, linear):
    data = prepared.read(made_data(tmp_path / "made", train=512))
    runs = [a_run(base_lr=lr, seed=seed, variance_batch_sizes=SIZES) for lr, seed in ((2**-8, 1), (2**-6, 2))]
    training = LaneTraining(runs, data, CPU)
    for run, rows in zip(runs, variance.measure(training.updates, runs, 0), strict=True):
        assert [(row.epoch, row.batch_size, row.draws) for row in rows] == [(0, 2, 256), (0, 8, 64), (0, 32, 32)]
        for row in rows:
            exact = run.base_lr**2 * row.batch_size**2 * exact_trace(training, run.seed, row.batch_size)
            assert row.trace == pytest.approx(exact, rel=0.2)
        slope = np.polyfit(np.log(SIZES), np.log([row.trace for row in rows]), 1)[0]
        assert slope == pytest.approx(1, abs=0.15)


def test_all_images_at_once_do_not_vary(data_folder, linear):
    run = a_run(variance_batch_sizes=(1, 64))
    training = LaneTraining([run], prepared.read(data_folder), CPU)
    one, all_of_them = variance.measure(training.updates, [run], 0)[0]
    assert all_of_them.trace < 1e-6 * one.trace


def test_where_the_rate_grows_with_the_root_the_variance_hardly_depends_on_m(tmp_path, linear):
    data = prepared.read(made_data(tmp_path / "made", train=512))
    run = a_run(variance_batch_sizes=(2, 32), lr_scaling="sqrt")
    training = LaneTraining([run], data, CPU)
    small, large = variance.measure(training.updates, [run], 0)[0]
    assert small.trace == pytest.approx(large.trace, rel=0.4)


def test_measuring_leaves_no_trace_in_training(data_folder, tmp_path):
    plain = {"momentum": 0.9, "augment_flip": True, "base_lr": 2**-12, "norm": "group", "epochs": 4}
    runs = [a_run(seed=seed, **plain, variance_batch_sizes=sizes) for sizes in ((), SIZES) for seed in (1, 2)]
    train_pack(runs, data_folder, tmp_path, keep_weights="all")
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    for without, measured in zip(runs[:2], runs[2:], strict=True):
        folders = [store.folder(run, fingerprint) for run in (without, measured)]
        for one, other in (
            [folder / METRICS for folder in folders],
            [store.weights(store.read(folder.name)) for folder in folders],
        ):
            assert one.read_bytes() == other.read_bytes()
        rows = store.find(measured, fingerprint).outcome.variance
        assert [(row.epoch, row.batch_size) for row in rows] == [(e, m) for e in (0, 2, 4) for m in SIZES]
        assert all(row.trace > 0 for row in rows)
        assert not (store.folder(without, fingerprint) / VARIANCE).exists()


def test_a_diverged_run_keeps_what_was_measured(data_folder, tmp_path):
    wild = a_run(base_lr=2.0**40, variance_batch_sizes=(2,))
    train_pack([wild, a_run(variance_batch_sizes=(2,))], data_folder, tmp_path)
    outcome = RunStore(tmp_path).find(wild, prepared.read(data_folder).meta.fingerprint).outcome
    assert outcome.diverged_at and [row.epoch for row in outcome.variance] == [0]


def test_what_cannot_be_measured_is_refused(data_folder, tmp_path):
    with pytest.raises(UserError, match="variance_batch_sizes: only with norm none or group"):
        train_pack([a_run(norm="batch", variance_batch_sizes=(2,))], data_folder, tmp_path)
    with pytest.raises(UserError, match="variance_batch_sizes: 65 is not allowed; allowed: numbers up to 64"):
        train_pack([a_run(variance_batch_sizes=(65,))], data_folder, tmp_path)


def test_points_are_epochs_once_each():
    assert variance.epochs_measured(a_run(epochs=2, variance_batch_sizes=(2,)).setting) == {0, 1, 2}
    assert variance.epochs_measured(a_run(epochs=80, variance_batch_sizes=(2,)).setting) == {0, 8, 40, 80}
    assert variance.epochs_measured(a_run(epochs=80).setting) == set()
