"""One step of every experiment of every study, so that no study file rots."""

from dataclasses import replace

import pytest
import torch
import yaml
from helpers import PROJECT, made_data

from smallbatch.data import prepared
from smallbatch.study_file import load_study
from smallbatch.training.trainer import LaneTrainer

CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())
SHAPES = {
    "digits": (1, 8, 8),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "imagenet": (3, 16, 16),
}  # photos in small, as arrays


def experiments():
    for path in sorted((PROJECT / "config" / "studies").glob("*.yaml")):
        for name in yaml.safe_load(path.read_text())["experiments"]:
            yield path.stem, name


@pytest.mark.slow
@pytest.mark.parametrize(("study", "experiment"), list(experiments()))
def test_one_step_of_each_experiment(study, experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    chosen = load_study(CONFIG | {"study": study}).experiments[experiment]
    monkeypatch.chdir(tmp_path)
    shape = SHAPES[chosen.setting.data]
    images = max(40, *chosen.batch_sizes)
    data = prepared.read(made_data(tmp_path / "data", train=images, test=10, shape=shape, classes=10))
    cells = {(run.batch_size, run.bn_batch_size): run for run in chosen.runs()}
    # The smallest m that has sub-batches, where there are any.
    run = cells[min(cells, key=lambda cell: (cell[0] == cell[1], cell))]
    # The part of the training images that a study takes may be larger than what is made here; arrays are of one size.
    run = replace(run, base_lr=2**-12, setting=replace(run.setting, train_images=None, augment_resized=False))
    training = LaneTrainer([run], data, torch.device("cpu"))
    losses = training.train_block(training.loader.plan([1], 0), 1)
    assert losses.shape == (1, 1) and losses.isfinite().all()
