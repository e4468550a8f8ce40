"""Arrays of the user's own are trained on as images are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import a_run
from torch import nn

from smallbatch import data, models
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training import own_models
from smallbatch.training.pack import train_pack


def of_features(shape: Sequence[int], classes: int, norms: object) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, classes))


@pytest.mark.parametrize(("kind", "shape"), [("uint8", (8, 8, 1)), ("float64", (1, 8, 8)), ("float32", (9,))])
def test_a_study_on_arrays_trains(
    kind: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, either_way: None
) -> None:
    """Two classes, of dark and of bright images or of low and high features, in units far from those of pixels."""
    monkeypatch.setitem(models.MODELS, "of-features", f"{__name__}:of_features")
    monkeypatch.setattr(own_models, "suitability_of", lambda spec: own_models.spec.BUILT_IN)  # which takes seconds
    draws, labels = np.random.default_rng(0), np.arange(64) % 2
    images = draws.normal(100, 10, (64, *shape)) + 40 * labels.reshape(-1, *[1] * len(shape))
    images = images.astype(kind) if kind == "uint8" else (images * 1000).astype(kind)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    settings = {"source": "arrays", "path": str(tmp_path / "mine.npz"), "test_fraction": 0.25}
    data.prepare("made", settings, tmp_path / "made", tmp_path)
    model, rate = ("of-features", 2**-6) if len(shape) == 1 else ("alexnet", 2**-9)
    runs = [a_run(epochs=4, batch_size=4, model=model, base_lr=rate, seed=seed) for seed in (1, 2)]
    train_pack(runs, tmp_path / "made", tmp_path)
    fingerprint = prepared.read(tmp_path / "made").meta.fingerprint
    outcomes = [RunStore(tmp_path).find(run, fingerprint).outcome for run in runs]
    assert [outcome.images for outcome in outcomes] == [4 * 48] * 2
    assert min(outcome.epochs[-1].test_accuracy for outcome in outcomes) > 0.9
