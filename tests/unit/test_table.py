"""The tables: every column of six runs, worked out by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from math import inf, isnan, nan

import pandas as pd
import pytest
from helpers import a_run

from smallbatch.analysis.selection import at_best_rates, best_rates, rates_so_far
from smallbatch.analysis.table import (
    by_environment,
    collect,
    epochs_table,
    read_tables,
    runs_table,
    variance_table,
    write_table,
    write_tables,
)
from smallbatch.core import checksums
from smallbatch.core.errors import UserError
from smallbatch.data.prepared import Meta
from smallbatch.runs.records import Epoch, Outcome, Score, Variance, digest_of
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Experiment, Study
from smallbatch.study.rates import BaseLr

META = Meta("made", ("a", "b", "c", "d"), (1, 8, 8), (0.5,), (0.5,), 1000, 1200, "f")
METAS = {"made": META}
PLACE = {"device": "Some CPU", "python": "3.11.7", "torch": "2.15.0", "smallbatch": "0.1.0", "commit": "abc"}

LONG = {
    "epochs": 6,
    "lr_drops": (0.5, 0.75),
    "momentum": 0.5,
    "augment_pad": 2,
    "augment_flip": True,
    "metrics": ("f1",),
}
SHORT = {
    "epochs": 3, "lr_drops": (1 / 3,), "norm": "batch", "norm_layers": "conv", "warmup": True, "train_images": 100,
    "warmup_fraction": 0.2, "lr_scaling": "sqrt", "model": "resnet8", "weight_decay": 1e-4,
}  # fmt: skip
SIX = a_run(batch_size=8, base_lr=2**-8, seed=1, **LONG)
LANES = a_run(batch_size=8, base_lr=2**-6, seed=2, variance_batch_sizes=(2, 8), **LONG)
DIVERGED = a_run(batch_size=8, base_lr=2**-2, seed=3, **LONG)
MISSING = a_run(batch_size=16, base_lr=2**-8, seed=4, **LONG)
THREE = a_run(batch_size=4, b=2, base_lr=0.003, seed=5, **SHORT)
VALIDATION = a_run(
    batch_size=4, base_lr=2**-4, seed=6, epochs=3, selection="validation", precision="bf16",
    lr_schedule="cosine", lr_drops=(), optimizer="adamw", betas=(0.9, 0.999), eps=1e-6, clip_norm=1.5,
    weight_decay_excludes=("biases", "norms"), label_smoothing=0.1, metrics=("f1",),
)  # fmt: skip
PLANNED = [("long", SIX), ("long", LANES), ("long", DIVERGED), ("long", MISSING), ("short", THREE),
           ("held-out", VALIDATION)]  # fmt: skip


def epochs(test: list[float], validation: list[float] | None = None) -> list[Epoch]:
    held_out = validation or [nan] * len(test)
    return [Epoch(i, 0.1 * i, 2.0 * i, 3.0 * i, test[i - 1], held_out[i - 1]) for i in range(1, len(test) + 1)]


def scores(test: list[float], validation: list[float] | None = None) -> list[Score]:
    """F1 a tenth below the accuracies, its errors a tenth of it."""
    held_out = validation or [nan] * len(test)
    both = [(one - 0.1, other - 0.1) for one, other in zip(test, held_out, strict=True)]
    return [Score(i, "f1", one, one / 10, other, other / 10) for i, (one, other) in enumerate(both, 1)]


OUTCOMES = {
    # The last five, in order: 0.1, 0.3, 0.5, 0.6, 0.7. Their mean is 0.44; the median of all six 0.55.
    SIX: Outcome(
        epochs([0.9, 0.7, 0.1, 0.3, 0.5, 0.6]), None, 4.0, 6000, 1, 3 * 2**20, [],
        scores([0.9, 0.7, 0.1, 0.3, 0.5, 0.6]),
    ),
    LANES: Outcome(
        epochs([0.25, 0.75, 0.75, 0.75, 0.25, 1.0]), None, 2.5, 6000, 2, 2**19,
        [Variance(0, 2, 0.5, 40), Variance(0, 8, 2.0, 10)], scores([0.25, 0.75, 0.75, 0.75, 0.25, 1.0]),
    ),
    DIVERGED: Outcome(epochs([0.9]), 130, 0.5, 1040, 2, 2**19, [], scores([0.9])),
    THREE: Outcome(epochs([0.28, 0.9, 0.2]), None, 3.0, 300, 1, 2**30, []),
    VALIDATION: Outcome(
        epochs([0.1, 0.2, 0.6], [0.7, 0.9, 0.8]), None, 9.0, 2700, 1, 0, [], scores([0.1, 0.2, 0.6], [0.7, 0.9, 0.8])
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Five of the six runs, each of which ended some minutes after 12 o'clock."""
    store = RunStore(tmp_path_factory.mktemp("store"))
    for minute, (run, outcome) in enumerate(OUTCOMES.items()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "smallbatch.runs.store.now", lambda minute=minute: datetime(2026, 11, 26, 12, minute, tzinfo=UTC)
            )
            place = PLACE | {"device": "Some GPU", "cuda": "13"} if run is THREE else PLACE
            store.write(run, "f", outcome, place, None)
    return store


@pytest.fixture
def runs(store):
    return runs_table(PLANNED, collect(PLANNED, store, METAS), METAS, 0.5)


def column(runs: pd.DataFrame, name: str) -> list:
    return [None if pd.isna(value) else value for value in runs[name]]


COLUMNS = {
    "experiment": ["long", "long", "long", "long", "short", "held-out"],
    "run": [run.name("f") for _, run in PLANNED],
    "classes": [4] * 6,
    "chance": [0.25] * 6,
    "test_images": [1200] * 6,
    "data": ["made"] * 6,
    "model": ["alexnet"] * 4 + ["resnet8", "alexnet"],
    "model_content": [None] * 6,
    "weight_decay": [5e-4] * 4 + [1e-4, 5e-4],
    "epochs": [6, 6, 6, 6, 3, 3],
    "train_images": [1000, 1000, 1000, 1000, 100, 1000],
    "norm": ["none"] * 4 + ["batch", "none"],
    "norm_layers": ["all"] * 4 + ["conv", "all"],
    "lr_drops": ["0.5 0.75"] * 4 + ["0.333333", ""],
    "lr_scaling": ["linear"] * 4 + ["sqrt", "linear"],
    "lr_schedule": ["drops"] * 4 + ["drops", "cosine"],
    "lr_drop_factor": [0.1] * 6,
    "warmup": [False] * 4 + [True, False],
    "warmup_fraction": [0.05] * 4 + [0.2, 0.05],
    "warmup_start": [1 / 32] * 6,
    "augment": ["pad 2 + flip"] * 4 + ["none", "none"],
    "augment_pad": [2, 2, 2, 2, 0, 0],
    "augment_flip": [True] * 4 + [False, False],
    "augment_resized": [False] * 6,
    "augment_brightness": [0.0] * 6,
    "augment_contrast": [0.0] * 6,
    "augment_saturation": [0.0] * 6,
    "steps": [None] * 6,
    "images": [None] * 6,
    "loss": ["cross_entropy"] * 6,
    "loss_function": [None] * 6,
    "loss_content": [None] * 6,
    "metrics": ["f1"] * 4 + ["", "f1"],
    # The last five, as of accuracy; the errors are a tenth, and of what diverged there is none. Of four classes one
    # that always is the answer has an F1 of 2 / (4 + 1), and the others of 0.
    "f1": [0.4, 0.65, 0.1, None, None, 0.1],
    "f1_error": [0.04, 0.065, None, None, None, 0.01],
    "selection_f1": [0.4, 0.65, 0.1, None, None, 0.7],
    "selection_f1_error": [0.04, 0.065, None, None, None, 0.07],
    "augment_cutout": [0] * 6,
    "augment_mixup": [0.0] * 6,
    "augment_cutmix": [0.0] * 6,
    "momentum": [0.5] * 4 + [0, 0],
    "momentum_scaled": [False] * 6,
    "optimizer": ["sgd"] * 5 + ["adamw"],
    "betas": [""] * 5 + ["0.9 0.999"],
    "eps": [1e-8] * 5 + [1e-6],
    "weight_decay_excludes": [""] * 5 + ["biases norms"],
    "clip_norm": [None] * 5 + [1.5],
    "label_smoothing": [0.0] * 5 + [0.1],
    "precision": ["float32"] * 5 + ["bf16"],
    "selection": ["test"] * 5 + ["validation"],
    "variance_batch_sizes": ["", "2 8", "", "", "", ""],
    "batch_size": [8, 8, 8, 16, 4, 4],
    "bn_batch_size": [8, 8, 8, 16, 2, 4],
    "base_lr": [2**-8, 2**-6, 2**-2, 2**-8, 0.003, 2**-4],
    "seed": [1, 2, 3, 4, 5, 6],
    "status": ["finished", "finished", "diverged", "missing", "finished", "finished"],
    # Of four classes chance is a quarter.
    "accuracy": [0.5, 0.75, 0.25, None, 0.28, 0.2],
    "selection_accuracy": [0.5, 0.75, 0.25, None, 0.28, 0.8],
    # Half of the way from 0.25 to the best, 0.75. Of 1,200 images 3 * sqrt(0.25 * 0.75 / 1200) = 0.0375, so that
    # neither 0.28 nor 0.2 stands out from chance.
    "bar": [0.5, 0.5, 0.5, 0.5, inf, inf],
    "converged": [True, True, False, False, False, False],
    "diverged_at": [None, None, 130, None, None, None],
    "seconds": [4.0, 2.5, 0.5, None, 3.0, 9.0],
    # A run's seconds are its share of those of its lanes: 2 lanes took 5 s for 12,000 images.
    "images_per_second": [1500, 2400, 2080, None, 100, 300],
    "lanes": [1, 2, 2, None, 1, 1],
    "peak_memory_mb": [3, 0.5, 0.5, None, 1024, 0],
    "ended": [f"2026-11-26T12:0{m}:00+00:00" for m in (0, 1, 2)] + [None]
    + [f"2026-11-26T12:0{m}:00+00:00" for m in (3, 4)],
    "device": ["Some CPU"] * 3 + [None, "Some GPU", "Some CPU"],
    "cuda": [None, None, None, None, "13", None],
    **{key: [PLACE[key]] * 3 + [None] + [PLACE[key]] * 2 for key in PLACE if key != "device"},
}  # fmt: skip


def test_the_table_has_these_columns_and_no_others(runs):
    assert sorted(runs.columns) == sorted(COLUMNS)


def test_where_a_run_was_trained_stands_in_one_order_whatever_that_of_its_record_is(store, runs):
    records = collect(PLANNED, store, METAS)
    turned = {
        name: replace(record, environment=dict(reversed(record.environment.items())))
        for name, record in records.items()
    }
    assert list(runs_table(PLANNED, turned, METAS, 1.0).columns) == list(runs.columns)
    assert list(runs.columns)[-2:] == ["smallbatch", "commit"]


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_of_a_run_is_as_worked_out_by_hand(name, runs):
    assert column(runs, name) == [
        pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for value in COLUMNS[name]
    ]


def test_numbers_are_numbers_and_whole_ones_whole(runs, tmp_path):
    kinds = {name: str(kind) for name, kind in runs.dtypes.items()}
    assert kinds["diverged_at"] == "Int64" and kinds["converged"] == "bool" and kinds["batch_size"] == "int64"
    assert {kinds[name] for name in ("accuracy", "selection_accuracy", "seconds", "images_per_second", "bar")} == {
        "float64"
    }
    write_table(runs, tmp_path / "runs.csv")
    lines = (tmp_path / "runs.csv").read_bytes().split(b"\n")
    assert lines[3].split(b",")[:2] == [b"long", DIVERGED.name("f").encode()] and lines[7:] == [b""]
    again = pd.read_csv(tmp_path / "runs.csv")
    assert again["accuracy"].tolist()[:3] == [0.5, 0.75, 0.25] and again["diverged_at"].dropna().tolist() == [130]


def test_a_run_that_experiments_share_stands_in_each_and_is_judged_by_each(store):
    twice = [*PLANNED, ("twin", SIX)]
    runs = runs_table(twice, collect(twice, store, METAS), METAS, 1.0)
    assert runs["run"].tolist()[0] == runs["run"].tolist()[-1]
    assert runs["bar"].tolist() == [0.75, 0.75, 0.75, 0.75, inf, inf, 0.5]
    assert runs["converged"].tolist() == [False, True, False, False, False, False, True]


def test_a_row_an_epoch_and_a_row_a_measured_variance(store):
    records = collect(PLANNED, store, METAS)
    assert list(records) == [run.name("f") for run in OUTCOMES]
    table = epochs_table(records)
    assert list(table.columns) == [
        "run", "epoch", "learning_rate", "train_loss", "test_loss", "test_accuracy", "validation_accuracy"
    ]  # fmt: skip
    assert table["run"].value_counts(sort=False).tolist() == [6, 6, 1, 3, 3]
    assert table.iloc[2].tolist()[:-1] == pytest.approx([SIX.name("f"), 3, 0.3, 6, 9, 0.1])
    assert isnan(table.iloc[2]["validation_accuracy"])
    assert table.iloc[-1].tolist() == [VALIDATION.name("f"), 3, pytest.approx(0.3), 6, 9, 0.6, 0.8]
    variance = variance_table(records)
    assert list(variance.columns) == ["run", "epoch", "batch_size", "trace", "draws"]
    assert variance.to_numpy().tolist() == [[LANES.name("f"), 0, 2, 0.5, 40], [LANES.name("f"), 0, 8, 2.0, 10]]
    none = variance_table({})
    assert none.empty and list(map(str, none.dtypes)) == list(map(str, variance.dtypes))


def test_where_runs_were_trained_is_reported_once_with_its_runs(runs):
    twice = pd.concat([runs[runs["run"] == THREE.name("f")], runs, runs.assign(experiment="twin")])
    found = [(place["device"], rows["seed"].tolist()) for place, rows in by_environment(twice)]
    assert found == [("Some GPU", [5]), ("Some CPU", [1, 2, 3, 6])], "in the order of the table"
    assert [place for place, _ in by_environment(runs)] == [PLACE, PLACE | {"device": "Some GPU", "cuda": "13"}]
    assert list(by_environment(runs[runs["status"] == "missing"])) == []


def outputs(folder):
    return {name: folder / f"{name}.parquet" for name in ("runs", "epochs", "variance")} | {
        "checksums": folder / "checksums.json"
    }


def test_an_experiment_s_tables_are_written_as_they_are_with_what_they_show(store, tmp_path):
    there = [(name, run) for name, run in PLANNED if run is not MISSING]
    files = outputs(tmp_path / "tables")
    write_tables(there, store, META, 0.5, files, "of settings")
    records = collect(there, store, METAS)
    made = {
        "runs": runs_table(there, records, METAS, 0.5),
        "epochs": epochs_table(records),
        "variance": variance_table(records),
    }
    for name, table in made.items():
        pd.testing.assert_frame_equal(read_tables([files[name]]), table)
    assert read_tables([files["epochs"]] * 2)["epoch"].tolist() == made["epochs"]["epoch"].tolist() * 2
    assert read_tables([files["epochs"]] * 2).index.tolist() == list(range(2 * 19))
    assert checksums.made_from(files["checksums"]) == digest_of(record.digest for record in records.values())
    assert checksums.why_outdated(files["checksums"], "of settings") is None
    assert checksums.damaged(files["checksums"], files.values()) == []
    files["epochs"].write_bytes(b"")
    assert checksums.damaged(files["checksums"], files.values()) == [files["epochs"]]
    with pytest.raises(
        UserError, match=rf"^{files['epochs']}: cannot be read \(.*\); delete it: it is made again$"
    ) as said:
        read_tables([files["runs"], files["epochs"]])
    assert "(None)" not in str(said.value)


def test_a_planned_run_that_is_not_there_is_named(store, tmp_path):
    name = MISSING.name("f")
    with pytest.raises(UserError, match=rf"{name}: missing; the next call trains it again$"):
        write_tables(PLANNED, store, META, 0.5, outputs(tmp_path), "")


def test_a_planned_run_that_is_damaged_is_set_aside_and_named(store, tmp_path):
    folder = store.folder(MISSING, "f")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"{folder.name}: .*; set aside as \S+; the next call trains it again$"
    ) as said:
        write_tables(PLANNED, store, META, 0.5, outputs(tmp_path), "")
    aside = str(said.value).split("set aside as ")[1].split(";")[0]
    assert not folder.exists() and (folder.parent / aside / "run.json").read_text(encoding="utf-8") == "{"


def test_rates_are_chosen_by_selection_accuracy(runs):
    assert best_rates([runs]) == {4: 2**-4, 8: 2**-6}  # at m = 4 rate 2^-4 is better on the images held out alone
    assert best_rates([runs[runs["status"] == "missing"]]) == {}
    assert at_best_rates(runs)["seed"].tolist() == [2, 6]
    missing = runs[runs["status"] == "missing"]
    assert at_best_rates(missing) is missing


def test_rates_that_are_known_so_far_are_those_of_each_dependent_experiment(runs):
    grid = Experiment("long", SIX.setting, (8, 16), None, (BaseLr(2**-8), BaseLr(2**-6)), (1,))
    held_out = Experiment("held-out", VALIDATION.setting, (4,), None, (BaseLr(2**-4),), (1,))
    later = Experiment("later", SIX.setting, (8,), None, (), (1,), ("long", "held-out"))
    study = Study("f", "s", "t", "", {e.name: e for e in (grid, held_out, later)}, {})
    assert rates_so_far(study, runs) == {"later": {8: 2**-6, 4: 2**-4}}


@pytest.mark.parametrize(("r2", "has_trained"), [(0.029, False), (0.031, True)])
def test_numbers_of_which_noise_explains_as_much_have_not_converged(r2: float, has_trained: bool, tmp_path):
    """Of an error of 0.01, which is the metric's own, three are within chance."""
    run = a_run(loss="mse", metrics=("r2",), epochs=1)
    outcome = Outcome(epochs([r2]), None, 1.0, 64, 1, 1, [], [Score(1, "r2", r2, 0.01, nan, nan)])
    store = RunStore(tmp_path)
    store.write(run, "f", outcome, PLACE, None)
    table = runs_table([("e", run)], collect([("e", run)], store, METAS), METAS, 0.8)
    assert table["converged"].tolist() == [has_trained] and table["chance"].tolist() == [0]
    assert table["bar"].tolist() == [pytest.approx(0.8 * r2) if has_trained else inf]
