"""Claims of the user's own: what a study's file may say, and what is judged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import GRID, PROJECT, write_study
from helpers.claims import DEAD, NO_EPOCHS, NO_VARIANCE, THRESHOLDS, curve

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.user_claims import claims_of
from smallbatch.analysis.claims.user_function import check_unchanged
from smallbatch.analysis.claims.verdict_table import judge
from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest
from smallbatch.study_file import load_study, scaled

FIGURES = {
    "plain": {"kind": "accuracy", "experiments": ["plain"]},
    "better": {"kind": "accuracy", "experiments": ["better"]},
    "both": {"kind": "best", "experiments": ["plain", "better"]},
    "recall": {"kind": "accuracy", "experiments": ["plain"], "metric": "balanced_accuracy"},
    "less-recall": {"kind": "accuracy", "experiments": ["better"], "metric": "balanced_accuracy"},
    "from-one": {"kind": "accuracy", "experiments": ["from-one"]},
    "with-dead": {"kind": "best", "experiments": ["dead", "better"]},
}


def with_recall(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs whose balanced accuracy is the higher the lower their accuracy is, with an error of a point."""
    recall = {name: 1 - runs["accuracy"] for name in ("balanced_accuracy", "selection_balanced_accuracy")}
    return runs.assign(**recall, **{f"{name}_error": 0.01 for name in recall})


RUNS = pd.concat(
    [
        with_recall(curve({2: 0.70, 8: 0.80, 32: 0.75, 128: 0.60}).assign(experiment="plain")),
        with_recall(curve({2: 0.75, 8: 0.84, 32: 0.80, 128: 0.70}).assign(experiment="better")),
        curve({2: DEAD, 8: DEAD}).assign(experiment="dead"),
        curve({1: 0.90, 8: 0.80}).assign(experiment="from-one"),
    ],
    ignore_index=True,
)


def judged(**asked) -> pd.Series:
    claims = claims_of({"mine": {"text": "as I think", **asked}}, FIGURES)
    table = judge(FIGURES, RUNS, NO_EPOCHS, NO_VARIANCE, THRESHOLDS, np.random.default_rng(0), claims)
    (row,) = (row for _, row in table.iterrows())
    return row


def test_a_claim_is_about_the_metric_of_its_figure():
    row = judged(best_batch_size={"figure": "recall", "at_least": 128})
    assert (row["verdict"], row["effect"]) == ("supported", "+10.0 points")  # 40 % at m = 128, 30 % at m = 2
    assert "best balanced accuracy at m ≥ 128" in row["predicate"] and "accuracy at" not in row["evidence"]
    assert row["evidence"].startswith("recall by balanced accuracy: best inside at m = 128 at 2⁻⁸ (40.0 %)")
    # Of the variance that a point of error gives, all cells have half in common; the rest is 0.7 points each.
    assert 0.5 < (row["high"] - row["low"]) / 2 / 1.96 < 1
    gained = judged(improves={"from": "less-recall", "to": "recall"})  # 30 and 40 %, each at m = 128
    assert gained["effect"] == "+10.0 points" and 0.5 < (gained["high"] - gained["low"]) / 2 / 1.96 < 1
    accuracy = judged(best_batch_size={"figure": "plain", "at_most": 8})
    assert (accuracy["effect"], accuracy["evidence"].split(":")[0]) == ("+5.0 points", "plain")


@pytest.mark.parametrize(
    ("asked", "verdict", "effect"),
    [
        ({"best_batch_size": {"figure": "plain", "at_most": 8}}, "supported", "+5.0 points"),
        ({"best_batch_size": {"figure": "plain", "at_least": 32}}, "refuted", "-5.0 points"),
        ({"best_batch_size": {"figure": "plain", "at_least": 8, "at_most": 32}}, "supported", "+10.0 points"),
        ({"best_batch_size": {"figure": "from-one", "at_most": 4}}, "supported", "+10.0 points"),
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
        (
            {"improves": {"from": "plain", "to": "better"}},
            "best accuracy in better minus best in plain: above 0 points",
        ),
        ({"same_accuracy": {"from": "plain", "to": "better"}}, "best in plain: within 1.0 points"),
        ({"accuracy_falls": {"figure": "plain", "from": 8}}, "best accuracies at m ≥ 8 over log2 m: above 0.2 points"),
        ({"accuracy_falls": {"figure": "plain"}}, "best accuracies at m ≥ 1 over log2 m: above 0.2 points"),
        ({"range_shrinks": {"figure": "plain"}}, "over log2 m: above 0 rates"),
    ],
)
def test_what_is_computed_is_said_in_words(asked, words):
    assert words in judged(**asked)["predicate"]


def test_test_images_of_other_data_have_nothing_in_common():
    def width(data: str) -> float:
        pair = [curve({8: accuracy}, data=of) for accuracy, of in ((0.7, "cifar10"), (0.71, data))]
        runs = pd.concat([one.assign(experiment=name) for name, one in zip(("plain", "better"), pair, strict=True)])
        claims = claims_of({"mine": {"text": "", "improves": {"from": "plain", "to": "better"}}}, FIGURES)
        draws = np.random.default_rng(0)
        table = judge(FIGURES, runs.reset_index(drop=True), NO_EPOCHS, NO_VARIANCE, THRESHOLDS, draws, claims)
        return float((table["high"] - table["low"]).iloc[0])

    # Of the binomial variance each has 0.15 by itself, and 0.65 where the other has other images.
    assert width("cifar100") / width("cifar10") == pytest.approx((0.65 / 0.15) ** 0.5, rel=0.1)


@pytest.mark.parametrize("pair", [("plain", "both"), ("both", "plain"), ("both", "with-dead")])
def test_experiments_that_have_no_partner_are_not_compared(pair):
    """By their places in the figures the one would be compared with itself, or with the partner of another."""
    row = judged(same_accuracy=dict(zip(("from", "to"), pair, strict=True)))
    assert (row["verdict"], row["effect"]) in (("not run", ""), ("undecided", ""))


HIGH = """
from smallbatch.analysis.verdicts import Comparison

def best_is_high(thresholds, grid):
    yield Comparison(f"best at {grid.best_words()}", 100 * grid.peak(), at_least=75)

def fails(thresholds, grid):
    raise ValueError("no such\\nthing")

def is_silent(thresholds, grid):
    raise ValueError

def ends(thresholds, grid):
    raise SystemExit(0)

def reads(thresholds, grid):
    yield Comparison(open(__file__ + ".txt").read(), 100 * grid.peak(), at_least=75)

def imports(thresholds, grid):
    import sys
    sys.path.insert(0, __file__.rpartition("/")[0])
    import limit_of_mine
    yield Comparison("a", 100 * grid.peak(), at_least=limit_of_mine.LIMIT)

def draws(thresholds, grid):
    import random
    yield Comparison("a", 100 * grid.peak() + random.random(), at_least=75)

def edits(thresholds, grid):
    grid.accuracy[:] *= 0.5
    yield Comparison("a", 100 * grid.peak(), at_least=30)

def sets(thresholds, grid):
    thresholds["same"] = 50

def yields(what):
    return lambda thresholds, grid: [what(grid)]

number, texts = yields(lambda grid: 3), yields(lambda grid: Comparison("a\\nb", 100 * grid.peak(), at_least=1))
few = yields(lambda grid: Comparison("a", 100 * grid.peak()[:10], at_least=1))
mean = yields(lambda grid: Comparison("a", 100 * grid.peak().mean(), at_least=1))
number_of_points = yields(lambda grid: Comparison("a", 80.0, at_least=1))
unit = yields(lambda grid: Comparison("a", 100 * grid.peak(), at_least=1, unit="percent"))
text = yields(lambda grid: Comparison("a", 100 * grid.peak(), at_least="50"))
crossed = yields(lambda grid: Comparison("a", 100 * grid.peak(), at_least=50, at_most=40))
point = yields(lambda grid: Comparison("a", 100 * grid.peak(), at_least=50, at_most=50))
nan = yields(lambda grid: Comparison("a", 100 * grid.peak(), at_least=float("nan")))
neither = yields(lambda grid: Comparison("a", 100 * grid.peak()))
"""


def asked_of(file: Path, name: str) -> dict:
    file.write_text(HIGH, encoding="utf-8")
    file.with_name("limit_of_mine.py").write_text("LIMIT = 75", encoding="utf-8")
    file.with_name(f"{file.name}.txt").write_text("a", encoding="utf-8")
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("is_silent", "it fails (ValueError: without a word)"),
        ("ends", "it fails (SystemExit: 0)"),
        ("reads", "it reads {folder}/mine.py.txt, whose changes nobody would notice; allowed: this file alone"),
        ("imports", "it reads {folder}/"),
        ("draws", "it yields other comparisons each time; allowed: what its arguments alone decide"),
        ("sets", "it fails (TypeError: 'mappingproxy' object does not support item assignment)"),
        ("number", "it yields a int; allowed: smallbatch.analysis.verdicts.Comparison"),
        ("texts", "it yields the sentence 'a\\nb'; allowed: a line of text"),
        ("few", "it yields the effect float64 (10,); allowed: an array of 1001 floats, as Grid has samples"),
        ("mean", "allowed: an array of 1001 floats, as Grid has samples"),
        ("number_of_points", "it yields the effect 80.0; allowed: an array of 1001 floats, as Grid has samples"),
        ("unit", "it yields the unit 'percent'; allowed: points, rates, % of seeds, slope"),
        ("text", "it yields at_least '50' and at_most inf; allowed: two numbers, the first below the other"),
        ("crossed", "it yields at_least 50 and at_most 40; allowed: two numbers, the first below the other"),
        ("point", "it yields at_least 50 and at_most 50; allowed: two numbers, the first below the other"),
        ("nan", "it yields at_least nan and at_most inf; allowed: two numbers, the first below the other"),
        ("neither", "it yields neither at_least nor at_most; allowed: one of them, or both"),
    ],
)
def test_what_a_function_does_wrong_is_said_in_one_line(name, words, tmp_path):
    with pytest.raises(UserError) as caught:
        judged(**asked_of(tmp_path / "mine.py", name))
    message = str(caught.value)
    assert f"mine.py: {name}: it " in message and words.format(folder=tmp_path) in message
    assert "\n" not in message


IN_COMPANY = {
    "falls": {"accuracy_falls": {"figure": "plain"}},
    "gains": {"improves": {"from": "plain", "to": "better"}},
    "gains-a-lot": {"improves": {"from": "plain", "to": "better", "by": 3}},
    "shrinks": {"range_shrinks": {"figure": "better"}},
}


def numbers(*names: str, paper: bool = False, runs: pd.DataFrame = RUNS, seed: int = 0) -> dict[str, tuple]:
    """Effect and interval of each claim; those of the paper are of fig01 and fig02."""
    own = claims_of({name: {"text": "t", **IN_COMPANY[name]} for name in names}, FIGURES)
    figures = FIGURES | {"fig01": FIGURES["plain"], "fig02": FIGURES["better"]}
    claims = [*own, *CLAIMS, *own] if paper else own
    table = judge(figures, runs, NO_EPOCHS, NO_VARIANCE, THRESHOLDS, np.random.default_rng(seed), claims)
    rows = table[["claim", "effect", "low", "high", "comparisons"]].itertuples(index=False, name=None)
    return {name: tuple(values) for name, *values in rows}


def test_the_numbers_of_a_claim_do_not_depend_on_the_claims_and_experiments_beside_it():
    alone = {name: numbers(name)[name] for name in IN_COMPANY}
    assert all(low < high for _, low, high, _ in alone.values())
    assert numbers(*IN_COMPANY) == numbers(*reversed(IN_COMPANY)) == alone
    assert alone["gains"][:3] == alone["gains-a-lot"][:3], "claims of the same effect agree on it"
    assert numbers("gains", runs=RUNS[RUNS["experiment"] != "dead"].assign(where="there"))["gains"] == alone["gains"]
    more = RUNS[RUNS["experiment"] == "dead"].assign(experiment="more", seed=99)
    assert numbers("gains", runs=pd.concat([more, RUNS], ignore_index=True))["gains"] == alone["gains"]
    assert all(numbers(name, seed=1)[name] != alone[name] for name in IN_COMPANY), "samples are drawn"


def test_the_paper_s_claims_have_the_numbers_that_they_have_without_ones_own():
    paper, both = numbers(paper=True), numbers(*IN_COMPANY, paper=True)
    judged_at_all = {name for name in paper if paper[name][0]}
    assert {"C1", "C2"} <= judged_at_all and {name: str(both[name]) for name in paper} == {
        name: str(values) for name, values in paper.items()
    }
    assert all(both[name] == numbers(name)[name] for name in IN_COMPANY)


def test_a_function_has_grids_of_its_own(tmp_path):
    asked = asked_of(tmp_path / "mine.py", "edits")
    claims = claims_of({"first": {"text": "t", **asked}, "second": {"text": "t", **asked}}, FIGURES)
    table = judge(FIGURES, RUNS, NO_EPOCHS, NO_VARIANCE, THRESHOLDS, np.random.default_rng(0), claims)
    assert list(table["effect"]) == ["+40.0 points", "+40.0 points"]


def test_a_file_may_be_called_with_braces(tmp_path):
    row = judged(**asked_of(tmp_path / "{margin}{}.py", "best_is_high"))
    assert row["predicate"] == f"what best_is_high of {tmp_path}/{{margin}}{{}}.py computes"


def test_a_file_that_is_edited_while_its_claim_waits_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("a = 1", encoding="utf-8")
    then = {str(file): files_digest(file)}
    check_unchanged(then)
    file.write_text("a = 2", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.py: edited since this call began; the next one judges by"):
        check_unchanged(then)


STUDY = {
    "title": "Mine",
    "seeds": [1],
    "experiments": {
        "grid": GRID,
        "one": GRID | {"batch_sizes": [16]},
        "bn": GRID | {"norm": "batch", "bn_batch_sizes": [4, 8]},
    },
    "figures": {
        "mine": {"kind": "accuracy", "title": "A", "experiments": ["grid"]},
        "other": {"kind": "best", "title": "B", "experiments": ["grid"]},
        "costs": {"kind": "cost", "title": "C", "experiments": ["grid"]},
        "several": {"kind": "best", "title": "D", "experiments": ["grid", "one"]},
        "single": {"kind": "accuracy", "title": "E", "experiments": ["one"]},
        "bn": {"kind": "bn-batch", "title": "F", "experiments": ["bn"]},
    },
}
FUNCTIONS = "def any(*x): pass\ndef two(t, a, b): pass\ndef kw(t, a, *, c): pass\n"
SMALL = {"text": "small is best", "best_batch_size": {"figure": "mine", "at_most": 16}}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads a study that has these claims."""
    (tmp_path / "config" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FUNCTIONS, encoding="utf-8")
    Path("beside.py").write_text("def f(t, grid):\n    from mine import any\n", encoding="utf-8")
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


@pytest.mark.parametrize("figures", [["mine"], ["mine", "other"]])
def test_a_function_of_as_many_figures_as_it_takes_is_allowed(figures, loaded):
    assert loaded({"any": {"text": "t", "function": {"file": "mine.py", "name": "any", "figures": figures}}}).claims


def test_claims_about_batch_sizes_go_where_a_scale_says_which_there_are():
    values = STUDY | {"claims": {"small": SMALL, "two": {"text": "t", "improves": {"from": "mine", "to": "other"}}}}
    assert list(scaled(values, {"name": "x", "batch_sizes": [16]})["claims"]) == ["two"]


def test_claims_about_figures_that_a_scale_leaves_out_go_with_them():
    values = STUDY | {"claims": {"small": SMALL, "two": {"text": "t", "improves": {"from": "mine", "to": "other"}}}}
    assert list(scaled(values, {"name": "x", "figures": ["mine"]})["claims"]) == ["small"]


@pytest.mark.parametrize(
    ("name", "claim", "words"),
    [
        ("small", SMALL | {"best_batch_size": {"figure": "min", "at_most": 16}},
         "claims.small.best_batch_size.figure: 'min' is not allowed; allowed: figures of accuracies of one experiment, "
         "with one BN batch size for each batch size: mine, other, single (did you mean 'mine'?)"),
        ("small", SMALL | {"best_batch_size": {"figure": "several", "at_most": 16}}, "'several' is not allowed;"),
        ("small", SMALL | {"best_batch_size": {"figure": "bn", "at_most": 16}}, "'bn' is not allowed; allowed:"),
        ("same", {"text": "t", "same_accuracy": {"from": "mine", "to": "mine"}},
         "claims.same.same_accuracy.to: 'mine' is not allowed; allowed: another figure than `from`"),
        ("falls", {"text": "t", "accuracy_falls": {"figure": "single"}},
         "claims.falls.accuracy_falls.figure: 'single' is not allowed; allowed: a figure with two batch sizes or more"),
        ("range", {"text": "t", "range_shrinks": {"figure": "single"}}, "range_shrinks.figure: 'single' is not"),
        ("far", {"text": "t", "function": {"file": "../f.py", "name": "f", "figures": ["mine"]}},
         "function.file: '../f.py' is not allowed; allowed: a file below the project's folder, to be kept and shared"),
        ("two", {"text": "t", "function": {"file": "mine.py", "name": "two", "figures": ["mine"]}},
         "function.name: 'two' is not allowed; allowed: a function of 2 arguments, the thresholds and a grid of each"),
        ("kw", {"text": "t", "function": {"file": "mine.py", "name": "kw", "figures": ["mine"]}}, "name: 'kw' is not"),
        ("tow", {"text": "t", "function": {"file": "mine.py", "name": "tow", "figures": ["mine"]}},
         "function.name: 'tow' is not allowed; allowed: a function of mine.py: any, two, kw (did you mean 'two'?)"),
        ("beside", {"text": "t", "function": {"file": "beside.py", "name": "f", "figures": ["mine"]}},
         "function.file: 'beside.py' is not allowed; allowed: a file that imports installed packages alone; nobody "
         "would notice changes of mine"),
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
