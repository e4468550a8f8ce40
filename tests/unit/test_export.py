"""Runs exported for TensorBoard, MLflow and Weights & Biases: what is written, when, and once."""

import math
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import GRID, a_run, an_outcome
from helpers.studies import enter_project

from smallbatch.__main__ import main
from smallbatch.core import signals
from smallbatch.core.console import IN_A_CLONE, MODULES_BY_EXTRA
from smallbatch.core.files import write_sealed
from smallbatch.data.prepared import META, Meta
from smallbatch.export import export_runs as exporting
from smallbatch.export.export_runs import export
from smallbatch.export.trackers import TRACKERS, metrics_of, outcome_of, plain
from smallbatch.runs.chosen_rates import chosen_file, write_chosen
from smallbatch.runs.records import Epoch, Score
from smallbatch.runs.store import RunStore
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study

SMALL = GRID | {"epochs": 3, "train_images": 100, "batch_sizes": [2, 4], "base_lrs": ["2^-8"]}
STUDY = {
    "title": "Mine",
    "seeds": [1],
    "experiments": {"plain": SMALL, "taken": SMALL | {"norm": "batch", "base_lrs": {"best_of": ["plain"]}}},
    "figures": {"fig01": {"kind": "accuracy", "title": "One", "experiments": ["plain"]}},
}
DATA, RESULTS, FOLDER = Path("data"), Path("results"), Path("exported")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The folder of a project, its data prepared."""
    enter_project(tmp_path, monkeypatch, STUDY)
    write_sealed(DATA / "digits" / META, vars(Meta("digits", ("0", "1"), (1, 8, 8), (0.5,), (0.5,), 1000, 100, "f")))


@pytest.fixture
def study():
    return load_study(read_yaml(Path("config/config.yaml")) | {"study": "mine"})


@pytest.fixture
def runs(study):
    return list(study.experiments["plain"].runs())


def store(run, **changed):
    RunStore(RESULTS).write(run, "f", an_outcome(run, **changed), {"device": "cpu"}, None)


class Memory:
    """A tracker that remembers what it was told: name of a run -> calls, and how often it was opened."""

    def __init__(self):
        self.calls, self.opened = {}, Counter()

    def __call__(self, folder, study, run, settings):
        assert (folder, study) == (FOLDER, "mine") and settings["model"] == "alexnet"
        self.opened[run] += 1
        told = self.calls[run] = []

        class RunLog:
            def add(self, epoch, metrics, at):
                told.append((epoch, metrics["test_accuracy"]))

            def close(self, record):
                told.append("finished" if record else "unfinished")

        return RunLog()


def test_each_finished_run_is_written_once_and_again_where_its_record_is_another(study, runs):
    memory = Memory()
    store(runs[0], accuracy=0.5)
    assert export(study, memory, FOLDER, DATA, RESULTS) == (1, 1)
    name = runs[0].name("f")
    assert memory.calls == {name: [(1, 0.5), (2, 0.5), (3, 0.5), "finished"]}
    store(runs[1])
    assert export(study, memory, FOLDER, DATA, RESULTS) == (2, 1)
    store(runs[0], accuracy=0.75)
    assert export(study, memory, FOLDER, DATA, RESULTS) == (2, 1)
    assert memory.opened == {name: 2, runs[1].name("f"): 1} and memory.calls[name][0] == (1, 0.75)


def test_runs_whose_rates_were_chosen_are_exported_too(study, runs):
    memory, file = Memory(), chosen_file(RESULTS, "mine", "taken")
    chosen = {2: 2**-8, 4: 2**-8}
    for run in study.experiments["taken"].runs(chosen):
        store(run)
    assert export(study, memory, FOLDER, DATA, RESULTS) == (0, 0)
    write_chosen(file, chosen, [None], "code")
    assert export(study, memory, FOLDER, DATA, RESULTS) == (2, 2)


def test_nothing_is_known_before_data_are_prepared(study, runs):
    store(runs[0])
    (DATA / "digits" / META).unlink()
    assert export(study, Memory(), FOLDER, DATA, RESULTS) == (0, 0)


class Training:
    """What `running` reads of a training: the given epochs of one run at each look; then the run is stored."""

    def __init__(self, run, looks, others):
        self.run, self.looks, self.others = run, iter(looks), others

    def __call__(self, fingerprints):
        assert fingerprints == {"digits": "f"}
        accuracies = next(self.looks, None)
        if accuracies is None:
            for run in (self.run, *self.others):
                store(run, accuracy=0.5)
            return {}
        epochs = an_outcome(self.run).epochs
        return {self.run.name("f"): [e._replace(test_accuracy=a) for e, a in zip(epochs, accuracies, strict=False)]}


@pytest.fixture
def followed(study, runs, monkeypatch):
    """A function that follows a training until all runs are finished; returns what a tracker was told of one run."""

    def follow(*looks):
        monkeypatch.setattr(exporting, "POLL", 0)
        write_chosen(chosen_file(RESULTS, "mine", "taken"), {2: 2**-8, 4: 2**-8}, [None], "code")
        taken = list(study.experiments["taken"].runs({2: 2**-8, 4: 2**-8}))
        memory = Memory()
        assert export(study, memory, FOLDER, DATA, RESULTS, Training(runs[0], looks, [*runs[1:], *taken])) == (4, 4)
        return memory.calls[runs[0].name("f")], memory.opened[runs[0].name("f")]

    return follow


def test_epochs_of_a_running_training_are_written_as_they_come(followed):
    assert followed([0.5], [0.5], [0.5, 0.5]) == ([(1, 0.5), (2, 0.5), (3, 0.5), "finished"], 1)


def test_a_run_that_was_begun_anew_with_other_numbers_is_written_anew(followed):
    assert followed([0.3, 0.4], [0.5]) == ([(1, 0.5), (2, 0.5), (3, 0.5), "finished"], 2)


def test_a_signal_ends_it_and_leaves_a_run_unfinished(study, runs, monkeypatch):
    memory = Memory()

    def stop():
        raise signals.Stopped("SIGINT")

    monkeypatch.setattr(exporting, "_wait", stop)
    with pytest.raises(signals.Stopped):
        export(study, memory, FOLDER, DATA, RESULTS, Training(runs[0], [[0.5]], []))
    assert memory.calls == {runs[0].name("f"): [(1, 0.5), "unfinished"]}


def test_metrics_settings_and_outcomes_by_name(runs):
    store(runs[0], accuracy=0.25)
    store(runs[1], diverged_at=7)
    finished, diverged = (RunStore(RESULTS).find(run, "f") for run in runs)
    assert outcome_of(finished) == {"accuracy": 0.25, "seconds": 1.0}
    scored = a_run(metrics=("f1",), epochs=3)
    scores = [Score(epoch, "f1", value, 0.1, math.nan, math.nan) for epoch, value in enumerate((0.5, 0.125, 0.25), 1)]
    RunStore(RESULTS).write(scored, "f", an_outcome(scored, scores=scores), {}, None)
    assert outcome_of(RunStore(RESULTS).find(scored, "f")) == {"accuracy": 0.5, "f1": 0.25, "seconds": 1.0}
    assert outcome_of(diverged) == {"diverged_at": 7, "seconds": 1.0}
    assert metrics_of(Epoch(4, 0.1, 2.0, 1.5, 0.5, math.nan), "accuracy") == {
        "learning_rate": 0.1, "train_loss": 2.0, "test_loss": 1.5, "test_accuracy": 0.5,
    }  # fmt: skip
    assert metrics_of(Epoch(4, 0.1, 2.0, 1.5, 0.5, 0.6), "accuracy")["validation_accuracy"] == 0.6
    r2 = [Score(epoch, "r2", 0.1 * epoch, 0.1, math.nan, math.nan) for epoch in (1, 2)]
    by_name = metrics_of(Epoch(2, 0.1, 2.0, 1.5, 0.2, math.nan), "r2", r2)
    assert by_name == {"learning_rate": 0.1, "train_loss": 2.0, "test_loss": 1.5, "test_r2": 0.2}
    f1 = [Score(2, "f1", 0.3, 0.1, 0.4, 0.1)]
    assert {"test_f1": 0.3, "validation_f1": 0.4}.items() <= metrics_of(
        Epoch(2, 0.1, 2.0, 1.5, 0.2, 0.3), "accuracy", f1
    ).items()
    assert plain({"lr_drops": [0.5, 0.75], "betas": [], "clip_norm": None, "warmup": False, "momentum": 0.0}) == {
        "lr_drops": "0.5 0.75", "warmup": False, "momentum": 0.0,
    }  # fmt: skip


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["smallbatch", "export", *arguments])
    main()


class Without:
    """Finds no module of a package."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_program_that_is_not_installed_is_refused_in_one_line(tracker, runs, monkeypatch, caplog):
    store(runs[0])
    for module in [name for name in sys.modules if name.partition(".")[0] == tracker]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Without(tracker), *sys.meta_path])
    with pytest.raises(SystemExit):
        call(monkeypatch, tracker, "mine")
    assert caplog.messages[-1].startswith(f"error: {tracker} is not installed in ")
    assert caplog.messages[-1].endswith(f"and this needs it: pip install 'smallbatch[{tracker}]' brings it")
    assert TRACKERS.keys() <= MODULES_BY_EXTRA.keys() - IN_A_CLONE


def test_tensorboard_reads_what_is_exported(runs, monkeypatch, caplog):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    store(runs[0])
    store(runs[1], diverged_at=7)
    for _ in range(2):
        call(monkeypatch, "tensorboard", "mine")
    folder = Path("results/mine/export/tensorboard")
    assert caplog.messages[-1] == f"{folder}: 2 finished runs of study mine, of which 0 are new"
    finished, diverged = (accumulators.EventAccumulator(str(folder / "runs" / run.name("f"))).Reload() for run in runs)
    accuracies = finished.Scalars("test_accuracy")
    assert [(one.step, one.value) for one in accuracies] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [(one.step, one.value) for one in finished.Scalars("final/accuracy")] == [(3, 0.5)]
    assert accuracies[0].wall_time == pytest.approx(finished.Scalars("final/seconds")[0].wall_time)
    assert "validation_accuracy" not in finished.Tags()["scalars"]
    assert [one.value for one in diverged.Scalars("final/diverged_at")] == [7]
    assert finished.Tags()["tensors"] == ["_hparams_/session_start_info"]


def test_mlflow_reads_what_is_exported(runs, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store(runs[0])
    call(monkeypatch, "mlflow", "mine")
    store(runs[0], accuracy=0.75)
    call(monkeypatch, "mlflow", "mine")
    client = mlflow.MlflowClient(Path("results/mine/export/mlflow/mlruns").resolve().as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.run_name == runs[0].name("f") and run.info.status == "FINISHED"
    assert run.data.params["lr_drops"] == "0.5 0.75" and run.data.tags["device"] == "cpu"
    history = client.get_metric_history(run.info.run_id, "test_accuracy")
    assert [(one.step, one.value) for one in history] == [(1, 0.75), (2, 0.75), (3, 0.75)]
    assert run.data.metrics["accuracy"] == 0.75


def test_wandb_writes_an_offline_run(runs, monkeypatch):
    pytest.importorskip("wandb")
    store(runs[0])
    call(monkeypatch, "wandb", "mine")
    store(runs[0], accuracy=0.75)
    call(monkeypatch, "wandb", "mine")
    [folder] = Path("results/mine/export/wandb/wandb").glob("offline-run-*")
    assert folder.name.endswith(runs[0].name("f").rpartition("-")[2])
    assert next(folder.glob("*.wandb")).stat().st_size > 0
