"""Kept weights give exactly the accuracy that was recorded, and nothing else passes for them."""

import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import a_run, made_data
from safetensors.torch import load, save

from smallbatch.__main__ import main
from smallbatch.data import prepared
from smallbatch.errors import UserError
from smallbatch.files import sha256
from smallbatch.store import METRICS, RECORD, RunStore
from smallbatch.training.evaluation import evaluate
from smallbatch.training.pack import train_pack

CPU = torch.device("cpu")
KINDS = (
    {"model": "alexnet", "base_lr": 2**-9},
    {"model": "resnet8", "norm": "batch", "batch_size": 8, "b": 4},
    {"model": "alexnet", "norm": "group", "precision": "bf16"},
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made_data(tmp_path / "data" / "made")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(project, *runs, **options):
    """The store after training, and the names of the runs."""
    data, results = project / "data" / "made", project / "results"
    train_pack(runs, data, results, **{"keep_weights": "all", "device": "cpu"} | options)
    fingerprint = prepared.read(data).meta.fingerprint
    return RunStore(project / "results"), [run.name(fingerprint) for run in runs]


def found(project, store, name):
    return evaluate(store, name, project / "data", CPU)


@pytest.fixture
def one(project):
    store, (name,) = trained(project, a_run())
    return store, name


def test_weights_give_the_recorded_accuracy_whatever_the_company_was(project, either_way):
    runs = [a_run(epochs=4, seed=seed, **kind) for kind in KINDS for seed in (1, 2, 3)]
    store, names = trained(project, *runs)
    accuracies = [found(project, store, name) for name in names]
    assert accuracies == [store.read(name).outcome.epochs[-1].test_accuracy for name in names]
    assert len(set(accuracies)) > 3


def change(store, name):
    """Other weights, which the record vouches for all the same."""
    tensors = load(store.read_weights(name))
    (last,) = [key for key, tensor in tensors.items() if tensor.shape == (4,)]
    tensors[last] = tensors[last] + torch.tensor([0.0, 0.0, 0.0, 1e3])
    store.weights(name).write_bytes(save(tensors))
    record = json.loads((store.root / name / RECORD).read_text())
    record["files"]["weights.safetensors"] = sha256(store.weights(name))
    (store.root / name / RECORD).write_text(json.dumps(record))


def test_other_weights_are_told_with_where_they_were_tested(project, one):
    store, name = one
    change(store, name)
    recorded = store.read(name).outcome.epochs[-1].test_accuracy
    assert recorded != 0.25
    with pytest.raises(UserError) as told:
        found(project, store, name)
    assert f"{name}: the weights have test accuracy 0.25, recorded is {recorded}; recorded with device " in str(
        told.value
    )
    assert str(told.value).count(f"torch {torch.__version__.partition('+')[0]}") == 2 and "\n" not in str(told.value)


def test_altered_weights_are_damaged(project, one):
    store, name = one
    content = bytearray(store.weights(name).read_bytes())
    content[-1] ^= 1
    store.weights(name).write_bytes(content)
    with pytest.raises(UserError, match=rf"weights/{name}\.safetensors: damaged: it does not fit its checksum in run"):
        found(project, store, name)


def test_an_altered_record_is_damaged(project, one):
    store, name = one
    metrics = (store.root / name) / METRICS
    metrics.write_text(metrics.read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match=rf"runs/{name}: damaged: metrics.csv does not fit its checksum"):
        found(project, store, name)


def test_weights_of_another_model_are_told(project, one, monkeypatch):
    store, name = one
    monkeypatch.setitem(sys.modules["smallbatch.models"].MODELS, "alexnet", "smallbatch.models.resnet:resnet8")
    with pytest.raises(UserError, match="model alexnet: it has other weights than these; was it changed"):
        found(project, store, name)


def test_weights_that_are_not_there(project):
    store, (kept, dropped) = trained(project, a_run(seed=1), a_run(seed=2), keep_weights="best")
    if not store.weights(kept).exists():
        kept, dropped = dropped, kept
    with pytest.raises(UserError, match=r"these weights were not kept; see training\.keep_weights"):
        found(project, store, dropped)
    store.weights(kept).rename(project / "elsewhere")
    pointer = store.weights(kept).with_name(f"{kept}.safetensors.dvc")
    pointer.write_text("outs:")
    with pytest.raises(UserError, match=rf"not pulled yet; `dvc pull {pointer}` gets it"):
        found(project, store, kept)
    store, (none,) = trained(project, a_run(seed=3), keep_weights="none")
    with pytest.raises(UserError, match=rf"runs/{none}: it has no weights: none were kept, or it diverged"):
        found(project, store, none)
    store, (diverged,) = trained(project, a_run(base_lr=2.0**40))
    with pytest.raises(UserError, match=rf"runs/{diverged}: it has no weights"):
        found(project, store, diverged)


def test_runs_that_are_not_there(project, one):
    store, name = one
    with pytest.raises(UserError, match=rf"there is no such run \(did you mean '{name}'\?\)"):
        found(project, store, name.replace("seed", "sead"))
    with pytest.raises(UserError, match=r"results/runs/x: there is no such run$"):
        found(project, RunStore(project / "no" / "results"), "x")
    store.published.mkdir()
    (store.published / "s-1.zip.dvc").write_text("outs:")
    with pytest.raises(
        UserError, match=r"s-1\.zip: not pulled yet; `dvc pull \S+/results/published/s-1\.zip\.dvc` gets"
    ):
        found(project, store, f"{name}x")


def test_data_that_are_not_there_or_others(project, one):
    store, name = one
    (project / "data" / "made").rename(project / "data" / "away")
    with pytest.raises(UserError, match=r"data/made/meta\.json: missing; `snakemake datasets` prepares the data set"):
        found(project, store, name)
    made_data(project / "data" / "made", train=60)
    with pytest.raises(
        UserError, match=rf"data/made: not the data that \S+{name} was trained on: their fingerprint is"
    ):
        found(project, store, name)


@pytest.mark.parametrize("form", ["{}", "results/runs/{}", "results/runs/{}/", "../elsewhere/results/runs/{}"])
def test_the_command_takes_a_name_or_a_folder(form, project, one, monkeypatch, capsys):
    name = one[1]
    if "elsewhere" in form:
        (project.parent / "elsewhere").mkdir()
        (project / "results").rename(project.parent / "elsewhere" / "results")
    monkeypatch.setattr(sys, "argv", ["smallbatch", "evaluate", form.format(name), "--device", "cpu"])
    main()
    assert re.search(rf"results/runs/{name}: test accuracy [01]\.\d+, exactly as recorded", capsys.readouterr().out)


def test_the_command_fails_in_one_line(project, one):
    store, name = one
    change(store, name)
    for arguments, told in (([name], "the weights have test accuracy"), ([name, "--device", "tpu"], "--device: 'tpu'")):
        called = [sys.executable, "-m", "smallbatch", "evaluate", *arguments]
        done = subprocess.run(called, text=True, capture_output=True)
        assert done.returncode == 1 and done.stdout == "" and told in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
