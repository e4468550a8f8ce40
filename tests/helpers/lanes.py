"""Trainings of runs as lanes of one group."""

import torch

from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engine import LaneTraining
from smallbatch.training.progress import Progress


def train(runs, data, tmp_path):
    """Outcomes and weights of runs trained as lanes of one group."""
    results = {}
    progress = Progress(1)
    progress.begin("test", ["a run"] * len(runs), runs[0].setting.epochs, 64)
    training = LaneTraining(runs, data, torch.device("cpu"))
    training.train(lambda run, *result: results.update({run: result}), Checkpoint(tmp_path / "c.pt"), progress)
    return results
