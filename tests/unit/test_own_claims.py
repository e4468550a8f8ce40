"""Claims of the user's own: what a study's file may say, and what is judged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import GRID, PROJECT, write_study
from helpers.claims import NO_EPOCHS, NO_VARIANCE, THRESHOLDS, curve

from smallbatch.analysis.claims.judge import judge
from smallbatch.analysis.claims.own import claims_of
from smallbatch.core.errors import UserError
from smallbatch.study_file import load_study, scaled

FIGURES = {
    "plain": {"kind": "accuracy", "experiments": ["plain"]},
    "better": {"kind": "accuracy", "experiments": ["better"]},
}
RUNS = pd.concat(
    [
        curve({2: 0.70, 8: 0.80, 32: 0.75, 128: 0.60}).assign(experiment="plain"),
        curve({2: 0.75, 8: 0.84, 32: 0.80, 128: 0.70}).assign(experiment="better"),
    ],
    ignore_index=True,
)


def judged(**asked) -> pd.Series:
    claims = claims_of({"mine": {"text": "as I think", **asked}})
    table = judge(FIGURES, RUNS, NO_EPOCHS, NO_VARIANCE, THRESHOLDS, np.random.default_rng(0), claims)
    (row,) = (row for _, row in table.iterrows())
    return row


@pytest.mark.parametrize(
    ("asked", "verdict", "effect"),
    [
        ({"best_batch_size": {"figure": "plain", "at_most": 8}}, "supported", "+5.0 points"),
        ({"best_batch_size": {"figure": "plain", "at_least": 32}}, "refuted", "-5.0 points"),
        ({"best_batch_size": {"figure": "plain", "at_least": 8, "at_most": 32}}, "supported", "+10.0 points"),
        ({"improves": {"from": "plain", "to": "better"}}, "supported", "+4.0 points"),
        ({"improves": {"from": "plain", "to": "better", "by": 3}}, "supported", "+4.0 points"),
        ({"improves": {"from": "plain", "to": "better", "by": 5}}, "refuted", "+4.0 points"),
        ({"improves": {"from": "better", "to": "plain"}}, "refuted", "-4.0 points"),
        ({"same_accuracy": {"from": "plain", "to": "better"}}, "refuted", "+4.0 points"),
        ({"same_accuracy": {"from": "plain", "to": "plain"}}, "supported", "+0.0 points"),
        ({"accuracy_falls": {"figure": "plain", "from": 8}}, "supported", "+20.0 points"),
        ({"accuracy_falls": {"figure": "plain"}}, "supported", "+10.5 points"),
    ],
)
def test_a_claim_of_ones_own_is_judged(asked, verdict, effect):
    row = judged(**asked)
    assert (row["verdict"], row["effect"]) == (verdict, effect)
    assert (row["claim"], row["text"], row["section"], row["differences"]) == ("mine", "as I think", "", "")
    assert set(row["figures"].split(", ")) == {
        name for key, name in next(iter(asked.values())).items() if name in FIGURES
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"best_batch_size": {"figure": "plain", "at_most": 8}},
            "best accuracy at m ≤ 8 minus best at other batch ",
        ),
        ({"best_batch_size": {"figure": "plain", "at_least": 8}}, "best accuracy at m ≥ 8 minus"),
        ({"best_batch_size": {"figure": "plain", "at_least": 8, "at_most": 32}}, "best accuracy at m = 8 ... 32 minus"),
        (
            {"improves": {"from": "plain", "to": "better", "by": 3}},
            "accuracy in better minus best in plain: above 3 ",
        ),
        ({"same_accuracy": {"from": "plain", "to": "better"}}, "best in plain: within 1.0 points"),
        ({"accuracy_falls": {"figure": "plain", "from": 8}}, "best accuracies at m ≥ 8 over log2 m: above 0.2 points"),
        ({"range_shrinks": {"figure": "plain"}}, "over log2 m: above 0 rates"),
    ],
)
def test_what_is_computed_is_said_in_words(asked, words):
    assert words in judged(**asked)["predicate"]


HIGH = """
from smallbatch.analysis.verdicts import Comparison

def best_is_high(thresholds, grid):
    yield Comparison(f"best at {grid.best_words()}", 100 * grid.peak(), at_least=75)

def fails(thresholds, grid):
    raise ValueError("no such\\nthing")
"""


def asked_of(file: Path, name: str) -> dict:
    file.write_text(HIGH, encoding="utf-8")
    return {"function": {"file": str(file), "name": name, "figures": ["plain"]}}


def test_a_function_of_ones_own_may_judge(tmp_path):
    row = judged(**asked_of(tmp_path / "mine.py", "best_is_high"))
    assert (row["verdict"], row["effect"]) == ("supported", "+80.0 points")
    assert row["evidence"] == "plain: best at m = 8 at 2⁻⁸ (80.0 %)" and row["predicate"].startswith(
        "what best_is_high of"
    )


def test_a_function_that_fails_is_named_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"mine\.py: fails: it fails \(ValueError: no such thing\)"):
        judged(**asked_of(tmp_path / "mine.py", "fails"))


STUDY = {
    "title": "Mine",
    "seeds": [1],
    "experiments": {"grid": GRID},
    "figures": {
        "mine": {"kind": "accuracy", "title": "A", "experiments": ["grid"]},
        "other": {"kind": "best", "title": "B", "experiments": ["grid"]},
        "costs": {"kind": "cost", "title": "C", "experiments": ["grid"]},
    },
}
SMALL = {"text": "small is best", "best_batch_size": {"figure": "mine", "at_most": 16}}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads a study that has these claims."""
    (tmp_path / "config" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text(encoding="utf-8"))

    def load(claims, **more):
        write_study(Path(), "mine", STUDY | {"claims": claims} | more)
        return load_study(config | {"study": "mine"})

    return load


def test_a_study_has_the_claims_of_its_file_and_the_papers_only_where_it_says_so(loaded):
    study = loaded({"small": SMALL})
    assert (study.claims, study.reproduces) == ({"small": SMALL}, "")
    study = loaded({}, reproduces="paper")
    assert (study.claims, study.reproduces) == ({}, "paper")
    assert type(study).from_json(study.as_json()) == study


def test_claims_about_figures_that_a_scale_leaves_out_go_with_them():
    values = STUDY | {"claims": {"small": SMALL, "two": {"text": "t", "improves": {"from": "mine", "to": "other"}}}}
    assert list(scaled(values, {"name": "x", "figures": ["mine"]})["claims"]) == ["small"]


@pytest.mark.parametrize(
    ("name", "claim", "words"),
    [
        ("small", SMALL | {"best_batch_size": {"figure": "min", "at_most": 16}},
         "claims.small.best_batch_size: 'min' is not allowed; allowed: mine, other (did you mean 'mine'?)"),
        ("small", SMALL | {"best_batch_size": {"figure": "costs", "at_most": 16}}, "'costs' is not allowed; allowed"),
        ("small", SMALL | {"best_batch_size": {"figure": "mine", "at_most": 64}},
         "claims.small.best_batch_size: {'at_most': 64} is not allowed; allowed: at_least, at_most or both, with some"),
        ("small", SMALL | {"best_batch_size": {"figure": "mine"}}, "claims.small.best_batch_size: {} is not allowed"),
        ("small", SMALL | {"best_batch_size": {"figure": "mine", "at_least": 100}}, "{'at_least': 100} is not allowed"),
        ("mine", SMALL, "claims.mine: 'mine' is not allowed; allowed: names that no figure has"),
        ("C1", SMALL, "claims: 'C1' is not allowed; allowed: names of small letters"),
        ("falls", {"text": "t", "accuracy_falls": {"figure": "mine", "from": 64}},
         "claims.falls.accuracy_falls.from: 64 is not allowed; allowed: a number up to the last but one of 16, 64"),
        ("none", {"text": "t"}, "claims.none: "),
        ("two", SMALL | {"range_shrinks": {"figure": "mine"}}, "claims.two: "),
        ("odd", {"text": "t", "best_batchsize": {"figure": "mine"}}, "unknown key (did you mean 'best_batch_size'?)"),
        ("gone", {"text": "t", "function": {"file": "no.py", "name": "f", "figures": ["mine"]}},
         "claims.gone.function.file: 'no.py' is not allowed; allowed: a file of Python that can be read (No such file"),
        ("odd", {"text": "t", "function": {"file": "no.py", "name": "f", "figures": ["min"]}}, "'min' is not allowed"),
        ("by", {"text": "t", "improves": {"from": "mine", "to": "other", "by": -1}}, "improves.by: -1 is not allowed"),
    ],
)  # fmt: skip
def test_mistakes_in_claims_are_reported_in_one_line(name, claim, words, loaded):
    with pytest.raises(UserError) as caught:
        loaded({name: claim})
    assert words in str(caught.value) and "\n" not in str(caught.value)
