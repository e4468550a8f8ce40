"""Tests kept weights again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load

from smallbatch.core import environment
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.records import Record
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.metrics import ACCURACY, LABELS
from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer

DECIDES_ROUNDING = ("device", "cuda", "threads", "kernels", "torch")
"""Entries of the environment that must be equal for equal rounding."""

ROUNDED = {"float32": (0.001, 2), "tf32": (0.01, 4), "bf16": (0.01, 4)}
"""Precision -> fraction of the test images, and minimum number, that may differ if the rounding differs."""


SAME_SUMS = 1e-5
"""The largest difference between two values of a metric that is no count, where the rounding is the same."""


@dataclass(frozen=True)
class Evaluation:
    """The result of testing kept weights.

    accuracy: accuracy in this test; equal to the recorded one, or within the bound.
    recorded: accuracy recorded after the last epoch of training.
    bound: largest allowed difference; 0 if both environments round alike.
    tested_with, recorded_with: device and precision, as text, of this test and of the training.
    """

    accuracy: float
    recorded: float
    bound: float
    tested_with: str
    recorded_with: str

    def __str__(self) -> str:
        relation = "equal to" if self.accuracy == self.recorded else f"within {self.bound:.4g} of"
        environments = (
            f"recorded and tested with {self.tested_with}"
            if self.tested_with == self.recorded_with
            else f"recorded with {self.recorded_with}; tested with {self.tested_with}"
        )
        return f"{self.accuracy:.6g}, {relation} the recorded {self.recorded:.6g}; {environments}"


def evaluate(store: RunStore, record: Record, data: Path, device: torch.device) -> Evaluation:
    """Test the kept weights of a run on its data set, with the same code as in training.

    On the same kind of device, with the same version of torch, the accuracy is exactly the recorded one. Otherwise sums
    are rounded differently, and images whose two best classes are almost equal may change class: see `ROUNDED`. If a
    device does not support the run's precision, float32 is used.

    Args:
        store: store that holds the weights.
        record: record of the run.
        data: folder of prepared data sets.
        device: device to run on, as set up by `training.device.pick`.

    Raises:
        UserError: the weights are missing or damaged, the data have changed, or the accuracy is not the recorded one.
    """
    run, folder = record.run, data / record.run.setting.data
    weights, images = load(store.read_weights(record)), prepared.read(folder)
    name = run.name(record.fingerprint)
    if images.meta.fingerprint != record.fingerprint:
        raise UserError(
            f"{folder}: not the data that {store.root / name} was trained on: their fingerprint is "
            f"{images.meta.fingerprint[:12]}, not {record.fingerprint[:12]}"
        )
    computed = run if devices.has_precision(run.setting.precision, device) else _in_float32(run)
    training = LaneTrainer([computed], images, device)
    accuracy = training.test(weights).accuracies[0]
    this = environment.describe() | training.environment
    alike = computed == run and all(this.get(key) == record.environment.get(key) for key in DECIDES_ROUNDING)
    result = Evaluation(
        accuracy,
        record.outcome.epochs[-1].test_accuracy,
        _bound(run.setting, images.meta.test, alike=alike),
        _words(computed, this),
        _words(run, record.environment),
    )
    if not abs(result.accuracy - result.recorded) <= result.bound:
        allowed = f"at most {result.bound:.4g} apart, between such places" if result.bound else "equal, on such a place"
        metric = LABELS[run.setting.primary_metric]
        raise UserError(
            f"{store.root / name}: the weights have test {metric} {accuracy}, recorded is {result.recorded}; allowed: "
            f"{allowed}; recorded with {result.recorded_with}; tested with {result.tested_with}"
        )
    return result


def _bound(setting: Setting, images: int, *, alike: bool) -> float:
    """The largest allowed difference between two accuracies on `images` images, where rounding is `alike` or not.

    Accuracies of classes are counts. Other primary metrics are as exact as the sums that they are computed from, which
    differ in the last digits where a run is tested alone.
    """
    fraction, smallest = ROUNDED[setting.precision]
    if setting.primary_metric != ACCURACY:
        return SAME_SUMS if alike else fraction
    if alike:
        return 0.0
    return max(math.floor(fraction * images), smallest) / images + 1e-12  # the accuracies themselves are rounded


def _in_float32(run: Run) -> Run:
    return replace(run, setting=replace(run.setting, precision="float32"))


def _words(run: Run, recorded: Mapping[str, str]) -> str:
    return f"precision {run.setting.precision}, {environment.words(recorded)}"
