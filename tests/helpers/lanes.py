"""Trainings of runs as lanes of one group."""

import torch

from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engines import cached_models
from smallbatch.training.progress import Progress
from smallbatch.training.trainer import LaneTrainer


def train(runs, data, tmp_path):
    """Outcomes and weights of runs trained as lanes of one group."""
    results = {}
    progress = Progress(1)
    progress.begin("test", ["a run"] * len(runs), runs[0].setting.epochs, 64)
    training = LaneTrainer(runs, data, torch.device("cpu"))
    training.train(lambda run, *result: results.update({run: result}), Checkpoint(tmp_path / "c.pt"), progress)
    return results


def train_instead(monkeypatch, build):
    """Train the model that `build` makes from a seed in place of the runs' own."""
    monkeypatch.setattr(LaneTrainer, "initial_model", lambda training, seed: build(seed))
    monkeypatch.setattr(cached_models, "model_of", lambda run, shape, classes: build(run.seed))
