"""Two people train the same runs on machines that round otherwise, publish, and unite; nobody trains for that."""

import shutil
from datetime import UTC, datetime

import pytest
import torch
from helpers import an_outcome, digests, warm
from helpers.publishing import as_repository, clone, make, pictures, sh
from safetensors.torch import save

from smallbatch.data import prepared
from smallbatch.publish.dvc_publish import RECORDED
from smallbatch.runs.store import RunStore
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study
from smallbatch.training import lane_layers
from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer

SCALE = {"name": "one", "epochs": 0.1, "batch_sizes": [8, 32], "base_lrs": ["2^-10", "2^-8"], "figures": ["fig01"]}
"""As `make` scales the study."""

UNITE = "git pull --quiet --no-rebase -X ours && dvc pull --quiet"
"""What docs/sharing.md says, before `snakemake publish`."""


@pytest.fixture
def hub(project, tmp_path):
    """A bare repository with the project, whose remote of DVC is a folder."""
    as_repository(project, tmp_path / "remote")
    sh(tmp_path, f"git clone --quiet --bare {project} hub")
    return tmp_path / "hub"


def train(folder, *, ended, noise, monkeypatch):
    """As if all runs of the study had been trained: initial weights, a little different for everybody, and tested."""
    monkeypatch.chdir(folder)
    data, store = prepared.read(folder / "data" / "digits"), RunStore(folder / "results")
    monkeypatch.setattr("smallbatch.runs.store.now", lambda: datetime.fromtimestamp(ended, UTC))
    device = devices.pick("cpu")
    place = dict.fromkeys(RECORDED, "made") | {"torch": torch.__version__.partition("+")[0]}
    study = load_study(read_yaml(folder / "config" / "config.yaml") | {"study": "laptop", "scale": SCALE})
    for number, run in enumerate(study.runs()):
        training = LaneTrainer([run], data, device)
        draws = torch.Generator().manual_seed(number)
        weights = {
            name: tensor + noise * torch.randn(tensor.shape, generator=draws)
            for name, tensor in lane_layers.lane_state(training.state.model, 0).items()
        }
        accuracy = training.test(weights).accuracies[0]
        store.write(run, data.meta.fingerprint, an_outcome(run, accuracy), place | training.environment, save(weights))
    return study.runs(), data.meta.fingerprint


def publish(folder, weights):
    done = make(folder, "publish", more=[f"publish={{weights: {weights}}}"])
    assert done.returncode == 0, done.stdout
    sh(folder, "git add --all docs/results.md paper_figures results && git commit --quiet --message Publish")


def evaluated(folder):
    """Every weight that is here, with what `evaluate` says of it."""
    files = sorted((folder / "results" / "weights").glob("*.safetensors"))
    command = f"{warm.python()} -m smallbatch evaluate --device cpu"
    return {file.name: sh(folder, f"PYTHONPATH=workflow {command} {file.relative_to(folder)}") for file in files}


def test_uniting_is_one_command_after_which_all_have_the_same(hub, tmp_path, monkeypatch):
    """Who unites trained later: for the runs that b has published, a gives up its own."""
    a, b = (clone(hub, tmp_path / name) for name in ("a", "b"))
    assert make(a, "datasets").returncode == 0
    shutil.copytree(a / "data", b / "data")
    for folder, noise in ((a, 0.0), (b, 1e-3)):
        ended = 10**9 + (folder == a)
        runs, fingerprint = train(folder, ended=ended, noise=noise, monkeypatch=monkeypatch)
    publish(b, "cell")
    sh(b, "git push --quiet")
    publish(a, "experiment")
    of_a, expected = (digests(RunStore(folder / "results"), runs, fingerprint) for folder in (a, b))
    assert len(expected) == 4 and of_a != expected

    sh(a, UNITE)
    united = make(a, "publish")
    assert united.returncode == 0 and "0 of these are new or changed" in united.stdout, united.stdout
    sh(a, "git add --all docs/results.md paper_figures results && git commit --quiet --allow-empty --message Unite")
    sh(a, "git push --quiet")

    sh(b, "git pull --quiet && dvc pull --quiet")
    fresh = clone(hub, tmp_path / "fresh")
    sh(fresh, "dvc pull --quiet")
    shutil.copytree(a / "data", fresh / "data")
    for folder in (fresh, b):
        done = make(folder, "all")
        assert done.returncode == 0 and "rule train" not in done.stdout, done.stdout
    for folder in (a, b, fresh):
        assert digests(RunStore(folder / "results"), runs, fingerprint) == expected
        assert pictures(folder) == pictures(a)
        assert sh(folder, "git status --porcelain") == ""
    told = evaluated(fresh)
    assert len(told) == 5 and all("equal to the recorded" in line for line in told.values())
    again = make(fresh, "publish")
    assert "0 of these are new or changed; nothing is left to commit" in again.stdout, again.stdout
