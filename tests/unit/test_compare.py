"""Experiments of two studies side by side, with numbers by hand."""

import sys
from dataclasses import fields

import pandas as pd
import pytest
from helpers import a_run, an_outcome
from helpers.claims import AS_FIGURE_1, DEAD, curve

from smallbatch import __main__ as shell
from smallbatch.analysis.study_comparison import compare, side_by_side
from smallbatch.analysis.table import write_table
from smallbatch.core.errors import UserError
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Setting

DEFAULTS = {field.name: None for field in fields(Setting)} | {"augment_pad": 0}
FIVE = [0.70, 0.72, 0.74, 0.76, 0.78]


def runs(cells, **settings) -> pd.DataFrame:
    """Runs of one experiment from {m: accuracies of the seeds}, named by their settings."""
    table = curve(cells, **{"norm": "none"} | settings)
    settings = {key: value for key, value in {**DEFAULTS, **AS_FIGURE_1}.items() if key not in table}
    table = table.assign(**settings, lanes=4, peak_memory_mb=1500.0, device="Some CPU")
    of = table[["optimizer", "batch_size", "seed"]].astype(str)
    return table if "run" in table else table.assign(run=of.agg("-".join, axis=1))


@pytest.fixture
def results(tmp_path):
    """A folder of results, and a function that writes a study's table into it."""

    def write(study, *tables):
        (tmp_path / study).mkdir(parents=True, exist_ok=True)
        write_table(pd.concat(tables, ignore_index=True), tmp_path / study / "runs.parquet")
        return tmp_path

    return write


def higher(points, of=FIVE):
    return [accuracy + points / 100 for accuracy in of]


def interval(text):
    low, high = text.partition("(")[2].rstrip(")").split(" to ")
    return float(high) - float(low)


def test_two_experiments_side_by_side():
    one = runs({2: FIVE, 8: higher(4), 512: FIVE})
    other = runs({2: higher(5), 8: higher(10), 16: FIVE}, optimizer="adamw", weight_decay=0.01)
    rows = side_by_side(one, other)
    assert (
        rows[:-3]
        == [
            ("model", "reduced AlexNet, no BN", "reduced AlexNet, no BN"),
            ("data", "cifar10: 50,000 training, 10,000 test images", "cifar10: 50,000 training, 10,000 test images"),
            ("optimiser", "SGD", "AdamW"),
            ("weight_decay", "0.0005", "0.01"),
            ("batch_sizes", "2, 8, 512", "2, 8, 16"),
            ("seeds", "0, 1, 2, 3, 4", "0, 1, 2, 3, 4"),
            ("best m", "8", "8"),
            ("m not told apart from it", "–", "–"),  # noqa: RUF001
            ("best rate", "η / m = 2⁻⁸", "η / m = 2⁻⁸"),
            ("accuracy (%)", *(row for row in rows[9][1:])),
            ("peak memory there", "1,500 MB, 4 lanes", "1,500 MB, 4 lanes"),
            ("difference (points), paired by 5 seeds", "", ""),
        ]
    )
    assert rows[9][1].startswith("78.0 (") and rows[9][2].startswith("84.0 (")
    assert [(row[0], row[2].partition(" ")[0]) for row in rows[-3:]] == [
        ("  best of common m", "+6.0"), ("  m = 2", "+5.0"), ("  m = 8", "+6.0"),
    ]  # fmt: skip


def test_a_difference_is_paired_by_the_seeds_that_both_have():
    one, other = runs({2: FIVE}), runs({2: higher(5)}, optimizer="adam")
    elsewhere = other.assign(seed=other["seed"] + 10)
    paired, alone = side_by_side(one, other)[-2:], side_by_side(one, elsewhere)[-2:]
    assert alone[0][0] == "difference (points), no seed in common"
    assert interval(paired[1][2]) < 0.5 * interval(alone[1][2]), "what a seed adds to both does not blur the difference"
    assert paired[1][2].startswith("+5.0 (+")


def test_one_seed_has_a_difference_without_an_interval():
    rows = side_by_side(runs({2: [0.7]}), runs({2: [0.65]}, optimizer="lion"))
    assert rows[-2][0] == "difference (points), paired by 1 seed"
    assert rows[-1] == ("  best of common m", "", "-5.0, interval unknown: one seed")


def test_the_same_runs_do_not_differ():
    assert side_by_side(runs({2: FIVE, 8: FIVE}), runs({2: FIVE, 8: FIVE}))[-1] == (
        "  best of common m", "", "none: the same runs",
    )  # fmt: skip


def test_experiments_of_a_name_are_compared_and_what_is_left_is_named(results):
    results("a", runs({2: FIVE}, experiment="x"), runs({2: FIVE}, experiment="y"), runs({2: FIVE}, experiment="z"))
    tables = runs({2: higher(1)}, experiment="x"), runs({4: FIVE}, experiment="y"), runs({4: FIVE}, experiment="w")
    text = compare("a", "b", results("b", *(table.assign(run=table["run"] + "b") for table in tables)))
    lines = text.splitlines()
    assert lines[0].split() == ["x", "a", "b"]
    assert lines[-3:] == ["y: not compared: no common m, 2 and 4", "z: only in a", "w: only in b"]
    one = compare("a:z", "b:w", results("b", runs({2: FIVE}, experiment="w", epochs=9)))
    assert one.splitlines()[0].split() == ["a:z", "b:w"] and "epochs" in one


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (runs({2: FIVE}, data="digits"), "other data, cifar10 and digits"),
        (runs({2: FIVE}, test_images=500), "other test images, 10000 and 500"),
        (runs({4: FIVE, 8: FIVE}), "no common m, 2 and 4, 8"),
        (runs({2: [DEAD, DEAD]}), "nothing has converged in one of them"),
        (pd.concat([runs({2: FIVE}), runs({2: FIVE}).assign(bn_batch_size=1)]), "one has several BN batch sizes for"),
    ],
)
def test_what_cannot_be_compared_is_refused(results, other, reason):
    results("a", runs({2: FIVE}))
    with pytest.raises(UserError, match=f"^command line: a and b: made: not compared: {reason}"):
        compare("a", "b", results("b", other))


def with_record(folder, table, fingerprint):
    """The same runs, of which the third has a record."""
    run = a_run(data=table["data"].iloc[0], seed=3)
    RunStore(folder).write(run, fingerprint, an_outcome(run), {}, None)
    names = [*table["run"]]
    names[2] = run.name(fingerprint)
    return table.assign(run=names)


DOUBT = "made: data known by label and number alone: a study without records in"


def test_experiments_with_other_metrics_are_not_compared(results):
    def by(loss, metric):
        columns = {f"{split}{metric}{what}": 0.5 for split in ("", "selection_") for what in ("", "_error")}
        return runs({2: FIVE, 8: FIVE}, loss=loss, optimizer=loss).assign(**columns)

    results("a", by("mse", "r2"))
    folder = results("b", by("binary", "balanced_accuracy"))
    with pytest.raises(UserError, match="made: not compared: other metrics decide, R² and balanced accuracy"):
        compare("a", "b", folder)


def test_data_of_one_label_are_told_apart_by_their_fingerprints(results, tmp_path):
    prints = ["0123456789abcdef" * 4, "fedcba9876543210" * 4]
    one, same, other = (with_record(tmp_path, runs({2: FIVE}), print) for print in (prints[0], prints[0], prints[1]))
    results("a", one), results("b", same), results("c", other), results("d", runs({2: FIVE}, run="others"))
    assert "made" in compare("a", "b", tmp_path) and DOUBT not in compare("a", "b", tmp_path)
    known = "their fingerprints are 0123456789ab and fedcba987654"
    with pytest.raises(UserError, match=f"^command line: a and c: .* other data under one label, cifar10: {known}$"):
        compare("a", "c", tmp_path)
    assert DOUBT not in compare("d", "d", tmp_path), "the same runs"
    for pair in (("a", "d"), ("d", "c")):
        assert compare(*pair, tmp_path).endswith(f"\n\n{DOUBT} {tmp_path / 'runs'}")


def test_unknown_names_are_refused(results):
    folder = results("study-a", runs({2: FIVE}, experiment="x"), runs({2: FIVE}, experiment="y"))
    with pytest.raises(UserError, match=r"STUDY: 'studya' is not allowed; .*: study-a \(did you mean 'study-a'\?\)"):
        compare("studya", "study-a", folder)
    with pytest.raises(UserError, match="EXPERIMENT: 'z' is not allowed; allowed: x, y"):
        compare("study-a:z", "study-a", folder)
    with pytest.raises(UserError, match="no experiment of the same name; allowed: STUDY:EXPERIMENT for each, of x, y "):
        compare("study-a", "b", results("b", runs({2: FIVE}, experiment="w")))
    with pytest.raises(UserError, match=r"runs.parquet: lacks clip_norm: of another version; snakemake makes it again"):
        compare("b", "b", results("b", runs({2: FIVE}).drop(columns="clip_norm")))


def test_the_command_prints_it(results, monkeypatch, capsys):
    monkeypatch.setattr(shell, "RESULTS", results("a", runs({2: FIVE})))
    monkeypatch.setattr(sys, "argv", ["smallbatch", "compare", "a", "a:made"])
    shell.main()
    assert capsys.readouterr().out.splitlines()[0].split() == ["made", "a", "a"]
