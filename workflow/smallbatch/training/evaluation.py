"""Kept weights, tested again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load

from smallbatch.core import environment
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.store import Record, RunStore
from smallbatch.study.experiments import Run
from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer

DECIDES = ("device", "cuda", "threads", "kernels", "torch")
"""What two environments have in common that round alike."""

ROUNDED = {"float32": (0.001, 2), "tf32": (0.01, 4), "bf16": (0.01, 4)}
"""Precision -> the fraction of the test images, and at least how many, that may differ where rounding does."""


@dataclass(frozen=True)
class Evaluation:
    """What came out of a test of kept weights.

    accuracy: of this test; the recorded one, or within the bound.
    recorded: after the last epoch of training.
    bound: how far both may be apart; 0 where both environments round alike.
    tested_with, recorded_with: device and precision, in words: of this test, and of the training.
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
    """Test the kept weights of a run on its data set, by the code that tested them in training.

    On the same kind of device, by the same version of torch, the accuracy is exactly the recorded one. Elsewhere sums
    are rounded otherwise, and images whose two best classes are all but equal may change sides: see `ROUNDED`. What a
    device cannot compute in the run's precision, it computes in float32.

    Args:
        store: where the weights are.
        record: of the run.
        data: the folder of prepared data sets.
        device: where, as `training.device.pick` sets it up.

    Raises:
        UserError: the weights are not there or damaged, the data are others, or the accuracy is not the recorded one.
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
    alike = computed == run and all(this.get(key) == record.environment.get(key) for key in DECIDES)
    result = Evaluation(
        accuracy,
        record.outcome.epochs[-1].test_accuracy,
        0.0 if alike else _bound(run.setting.precision, images.meta.test),
        _words(computed, this),
        _words(run, record.environment),
    )
    if not abs(result.accuracy - result.recorded) <= result.bound:
        allowed = f"at most {result.bound:.4g} apart, between such places" if result.bound else "equal, on such a place"
        raise UserError(
            f"{store.root / name}: the weights have test accuracy {accuracy}, recorded is {result.recorded}; allowed: "
            f"{allowed}; recorded with {result.recorded_with}; tested with {result.tested_with}"
        )
    return result


def _bound(precision: str, images: int) -> float:
    """How far apart two accuracies over so many images may be."""
    fraction, smallest = ROUNDED[precision]
    return max(math.floor(fraction * images), smallest) / images + 1e-12  # of accuracies that are rounded themselves


def _in_float32(run: Run) -> Run:
    return replace(run, setting=replace(run.setting, precision="float32"))


def _words(run: Run, recorded: Mapping[str, str]) -> str:
    return f"precision {run.setting.precision}, {environment.words(recorded)}"
