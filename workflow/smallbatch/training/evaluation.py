"""Kept weights, tested again."""

from pathlib import Path

import torch
from safetensors.torch import load

from smallbatch import environment
from smallbatch.data import prepared
from smallbatch.errors import UserError
from smallbatch.store import RunStore
from smallbatch.training import device as devices
from smallbatch.training.engine import LaneTraining


def evaluate(store: RunStore, name: str, data: Path, device: torch.device) -> float:
    """Test the kept weights of a run on its data set, by the code that tested them in training.

    Args:
        store: where the run is.
        name: the run's.
        data: the folder of prepared data sets.
        device: where, as `training.device.pick` sets it up.

    Returns:
        The test accuracy, which is exactly the recorded one.

    Raises:
        UserError: there is no such run, its weights are not there or damaged, the data are others, or the accuracy is
            not the recorded one.
    """
    record = store.read(name)
    weights = load(store.read_weights(name))
    folder = data / record.run.setting.data
    images = prepared.read(folder)
    if images.meta.fingerprint != record.fingerprint:
        raise UserError(
            f"{folder}: not the data that {store.root / name} was trained on: their fingerprint is "
            f"{images.meta.fingerprint[:12]}, not {record.fingerprint[:12]}"
        )
    found = LaneTraining([record.run], images, device).test(weights).accuracies[0]
    recorded = record.outcome.epochs[-1].test_accuracy
    if found != recorded:
        here = environment.describe() | devices.describe(device)
        raise UserError(
            f"{store.root / name}: the weights have test accuracy {found}, recorded is {recorded}; "
            f"recorded with {environment.words(record.environment)}; tested with {environment.words(here)}"
        )
    return found
