"""Kept weights give the accuracy that was recorded, exactly where it was, and nothing else passes for them."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers import a_run, made_data
from safetensors.torch import load, save

from smallbatch.__main__ import main
from smallbatch.core.errors import UserError
from smallbatch.core.files import sealed_bytes, sha256
from smallbatch.data import prepared
from smallbatch.models.resnet import resnet8
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training.engines import cached_models
from smallbatch.training.engines.native import library
from smallbatch.training.pack import train_pack
from smallbatch.training.weights_evaluation import evaluate

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
    return evaluate(store, store.read(name), project / "data", CPU)


def reseal(store, name, **changed):
    """Change a record, which vouches for the change."""
    path = store.root / name / RECORD_FILE
    values = json.loads(path.read_text(encoding="utf-8")) | changed
    del values["digest"]
    path.write_bytes(sealed_bytes(values))


def recorded_elsewhere(store, name, **place):
    """Let a record say that it comes from another place."""
    reseal(store, name, environment=store.read(name).environment | place)


def record_accuracy(store, name, accuracy):
    """Let a record have another accuracy after the last epoch."""
    file = store.root / name / METRICS_FILE
    rows = file.read_text(encoding="utf-8").splitlines()
    cells = rows[-1].split(",")
    file.write_text("\n".join([*rows[:-1], ",".join([*cells[:4], repr(accuracy), cells[5]])]) + "\n", encoding="utf-8")
    reseal(store, name, files={METRICS_FILE: sha256(file)})


@pytest.fixture
def one(project):
    store, (name,) = trained(project, a_run())
    return store, name


@pytest.mark.slow
def test_weights_give_the_recorded_accuracy_whatever_the_company_was(project, either_way):
    runs = [a_run(epochs=4, seed=seed, **kind) for kind in KINDS for seed in (1, 2, 3)]
    store, names = trained(project, *runs)
    evaluations = [found(project, store, name) for name in names]
    accuracies = [one.accuracy for one in evaluations]
    assert accuracies == [store.read(name).outcome.epochs[-1].test_accuracy for name in names]
    assert all(
        one.bound == 0 and str(one).startswith(f"{one.accuracy:.6g}, equal to the recorded") for one in evaluations
    )
    assert len(set(accuracies)) > 3


def change(store, name):
    """Other weights, which the record vouches for all the same."""
    tensors = load(store.read_weights(store.read(name)))
    (last,) = [key for key, tensor in tensors.items() if tensor.shape == (4,)]
    tensors[last] = tensors[last] + torch.tensor([0.0, 0.0, 0.0, 1e3])
    content = save(tensors)
    reseal(store, name, weights=hashlib.sha256(content).hexdigest())
    store.weights(store.read(name)).write_bytes(content)


def test_other_weights_are_reported_with_where_they_were_tested(project, one):
    store, name = one
    change(store, name)
    recorded = store.read(name).outcome.epochs[-1].test_accuracy
    assert recorded != 0.25
    with pytest.raises(UserError) as told:
        found(project, store, name)
    assert (
        f"{name}: the weights have test accuracy 0.25, recorded is {recorded}; allowed: equal, on such a place; "
        in (str(told.value))
    )
    assert str(told.value).count(f"torch {torch.__version__.partition('+')[0]}") == 2 and "\n" not in str(told.value)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_kernels_are_said_to_be_compiled_of_what_they_trained_alone(norm, project):
    store, (name,) = trained(project, a_run(model="resnet8", norm=norm))
    kernels = "compiled" if norm == "none" and library.kernels() else "none"
    assert store.read(name).environment["kernels"] == kernels
    told = str(found(project, store, name))
    assert told.count(f"kernels {kernels}") == 1 and "; recorded and tested with precision float32, " in told


# Of 32 test images two may change sides where sums are rounded otherwise, and four where products were in bf16 or tf32.
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("float32", 2), ("bf16", 4), ("tf32", 4)])
@pytest.mark.parametrize("place", [{"device": "another"}, {"torch": "1"}, {"kernels": "another"}, {"cuda": "12"}])
def test_elsewhere_the_accuracy_may_differ_by_a_few_images(precision, most, place, project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("smallbatch.training.resources.device.has_precision", lambda *arguments: True)
        store, (name,) = trained(project, a_run(precision=precision))
    accuracy = store.read(name).outcome.epochs[-1].test_accuracy
    recorded_elsewhere(store, name, **place)
    assert "equal to the recorded" in str(found(project, store, name))
    step = 1 / 32 if accuracy < 0.5 else -1 / 32
    record_accuracy(store, name, accuracy + most * step)
    told = str(found(project, store, name))
    assert f"{accuracy:.6g}, within {most / 32:.4g} of the recorded {accuracy + most * step:.6g}" in told
    assert f"recorded with precision {precision}, " in told
    assert f"tested with precision {'float32' if precision == 'tf32' else precision}, device " in told
    record_accuracy(store, name, accuracy + (most + 1) * step)
    with pytest.raises(UserError, match=rf"allowed: at most {most / 32:.4g} apart, between such places; recorded with"):
        found(project, store, name)


def test_on_the_same_kind_of_device_one_image_is_an_error(project, one):
    store, name = one
    accuracy = store.read(name).outcome.epochs[-1].test_accuracy
    record_accuracy(store, name, accuracy + (1 / 32 if accuracy < 0.5 else -1 / 32))
    with pytest.raises(UserError, match="allowed: equal, on such a place"):
        found(project, store, name)


def test_a_precision_that_is_not_here_is_no_error(project, monkeypatch):
    """Weights from a GPU, tested on a processor, which computes them in float32."""
    with monkeypatch.context() as patch:
        patch.setattr("smallbatch.training.resources.device.has_precision", lambda *arguments: True)
        store, (name,) = trained(project, a_run(precision="tf32"))
    evaluation = found(project, store, name)
    assert (
        "precision tf32" in evaluation.recorded_with
        and "precision float32" in evaluation.tested_with
        and evaluation.bound > 0.1
    )


def test_altered_weights_are_damaged(project, one):
    store, name = one
    file = store.weights(store.read(name))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name}: damaged: it does not fit its digest in run.json; set aside as"):
        found(project, store, name)


def test_an_altered_record_is_damaged(project, one):
    store, name = one
    metrics = (store.root / name) / METRICS_FILE
    metrics.write_text(metrics.read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match=rf"runs/{name}: damaged: metrics.csv does not fit its digest in run.json"):
        found(project, store, name)


def test_weights_of_another_model_are_reported(project, one, monkeypatch):
    store, name = one
    monkeypatch.setattr("smallbatch.models.alexnet.alexnet", resnet8)
    for cached in (cached_models._build, cached_models._trace):  # as in another process
        cached.cache_clear()
        monkeypatch.setattr(cached_models, cached.__name__, cached.__wrapped__)
    with pytest.raises(UserError, match="model alexnet: it has other weights than these; was it changed"):
        found(project, store, name)


def test_another_model_by_the_name_of_a_run_s_is_reported(project, one, monkeypatch):
    store, name = one
    monkeypatch.setitem(sys.modules["smallbatch.models"].MODELS, "alexnet", "smallbatch.models.resnet:resnet8")
    with pytest.raises(UserError, match=r"model alexnet: smallbatch.models.resnet:resnet8 in .* is not what this run"):
        found(project, store, name)


def test_weights_that_are_not_there(project):
    store, (kept, dropped) = trained(project, a_run(seed=1), a_run(seed=2), keep_weights="best")
    if not store.weights(store.read(kept)).exists():
        kept, dropped = dropped, kept
    file = store.weights(store.read(kept))
    with pytest.raises(UserError, match=r"these weights were not kept; see training\.keep_weights"):
        found(project, store, dropped)
    file.rename(project / "elsewhere")
    pointer = file.with_name(f"{file.name}.dvc")
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


FOLDERS = ("{}", "results/runs/{}", "results/runs/{}/", "results/runs/{}/run.json", "{}/metrics.csv")
WEIGHTS = ("results/weights/{}", "{}", "results/weights/{}/", "results/weights/{}.dvc")
FORMS = [(form, False) for form in (*FOLDERS, "../elsewhere/results/runs/{}")] + [(form, True) for form in WEIGHTS]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "weights"), FORMS)
def test_the_command_takes_a_name_a_folder_or_weights(form, weights, project, one, monkeypatch, capsys):
    store, name = one
    given = store.weights(store.read(name)).name if weights else name
    if "elsewhere" in form:
        (project.parent / "elsewhere").mkdir()
        (project / "results").rename(project.parent / "elsewhere" / "results")
    monkeypatch.setattr(sys, "argv", ["smallbatch", "evaluate", form.format(given), "--device", "cpu"])
    main()
    assert re.search(
        rf"results/runs/{name}: test accuracy ([01][.\d]*), equal to the recorded \1", capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_cannot_be_written_costs_a_line(project, one):
    command = [sys.executable, "-m", "smallbatch", "evaluate", one[1], "--device", "cpu"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, text=True, stdout=full, stderr=subprocess.PIPE)
    told = "error: standard output: cannot be written: No space left on device"
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and told in done.stderr


@pytest.mark.parametrize("given", ["/", ".", "", "results/..", "results/tiny", "run.json", "results/runs/{}/weights"])
def test_what_names_no_run_is_refused(given, project, one, monkeypatch, caplog):
    monkeypatch.setattr(sys, "argv", ["smallbatch", "evaluate", given.format(one[1]), "--device", "cpu"])
    with pytest.raises(SystemExit):
        main()
    assert "command line: RUN: " in caplog.text and "allowed: a run's name, its folder or a file" in caplog.text


@pytest.mark.slow
def test_the_command_fails_in_one_line(project, one):
    store, name = one
    change(store, name)
    for arguments, told in (([name], "the weights have test accuracy"), ([name, "--device", "tpu"], "--device: 'tpu'")):
        called = [sys.executable, "-m", "smallbatch", "evaluate", *arguments]
        done = subprocess.run(called, text=True, capture_output=True)
        assert done.returncode == 1 and done.stdout == "" and told in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
