"""Every claim gets every verdict from tables made for it, and no table makes judging fail."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.claim_cases import CASES
from helpers.claims import (
    AS_FIGURE_1,
    CONFIG,
    DEAD,
    NO_VARIANCE,
    RATE,
    SOME,
    THRESHOLDS,
    bn_batches,
    curve,
    judged,
    study,
    table,
)

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.verdict_table import COLUMNS, judge
from smallbatch.core.errors import UserError
from smallbatch.study_file import check_config


@pytest.mark.slow
@pytest.mark.parametrize("claim", CASES)
@pytest.mark.parametrize("verdict", ["supported", "refuted", "undecided"])
def test_each_claim_gets_each_verdict(claim: str, verdict: str):
    row = judged(**CASES[claim][verdict]).loc[claim]
    assert row["verdict"] == verdict, row["evidence"]
    assert row["low"] <= row["high"]
    assert row["effect"] and row["unit"] and row["figures"] and row["evidence"]


def test_without_a_study_every_claim_names_the_figures_of_the_paper_that_it_rests_on():
    claims = judged({})
    assert dict(claims["absent"]) == {
        "C1": "fig01", "C2": "fig02, fig03", "C3": "fig01, fig02, fig03", "C4": "fig01, fig02, fig03",
        "C5": "fig01, fig02, fig03", "C6": "sec32", "C7": "fig04", "C8": "fig01, fig05, fig06", "C9": "fig05",
        "C10": "fig06", "C11": "fig05, fig06", "C12": "fig07, fig08, fig09", "C13": "fig07, fig08, fig09",
        "C14": "fig08, fig09, fig10, fig11", "C15": "fig10", "C16": "fig10, fig11",
        "C17": "fig08, fig09, fig10, fig11", "C18": "fig12", "C19": "fig12", "C20": "fig13a, fig13b, fig14",
        "C21": "fig13a, fig13b", "C22": "fig14", "C23": "fig15", "C24": "fig16", "C25": "fig08, fig17, fig18",
        "C26": "",
    }  # fmt: skip
    for column in ("section", "text", "reading"):
        assert list(claims[column]) == [getattr(claim, column) for claim in CLAIMS]


def test_a_figure_without_the_sizes_leaves_a_claim_to_the_others():
    row = judged(**study(fig02=curve({2: 0.9, 8: 0.8}), fig03=curve({2: 0.9, 4: 0.9}))).loc["C2"]
    assert tuple(row[["verdict", "figures", "absent"]]) == ("supported", "fig02", "")


@pytest.mark.parametrize("claim", CASES)
def test_each_claim_is_not_run_without_data(claim: str):
    case = CASES[claim]["supported"]
    nothing = {key: value.iloc[:0] if isinstance(value, pd.DataFrame) else value for key, value in case.items()}
    missing = {**case, "runs": case["runs"].assign(accuracy=np.nan, status="missing")} if "runs" in case else nothing
    for claims in (judged({}), judged(**nothing), judged(**missing)):
        row = claims.loc[claim]
        assert row["verdict"] == "not run"
        assert np.isnan(row["low"]) and np.isnan(row["high"]) and row["effect"] == row["unit"] == row["figures"] == ""
        assert row["seeds"] == row["differences"] == row["to_decide"] == "" and row["comparisons"] == "[]"


def test_there_is_a_case_and_a_row_for_every_claim_in_order():
    assert [claim.name for claim in CLAIMS] == [f"C{number}" for number in range(1, 27)] == list(CASES)
    claims = judge({}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), THRESHOLDS, np.random.default_rng(0))
    assert list(claims["claim"]) == list(CASES) and list(claims.columns) == list(COLUMNS)
    assert not claims["predicate"].str.contains("[{}]").any()
    assert "the mean over m ≤ 8 minus" in claims["predicate"][4]


def test_what_is_reported_of_a_claim():
    row = judged(**study(fig01=curve({2: 0.975, 8: 0.9, 16: 0.96}))).loc["C1"]
    assert row["effect"] == "+1.5 points" and row["unit"] == "points"
    assert 1 < row["low"] < 1.5 < row["high"] < 2  # seeds agree, but images are 10,000
    assert row["evidence"] == "fig01: best inside at m = 2 at 2⁻⁸ (97.5 %), outside at m = 16 at 2⁻⁸ (96.0 %)"
    assert (row["section"], row["figures"], row["absent"]) == ("3.2", "fig01", "")


def test_figures_that_are_absent_are_named_and_the_others_judged():
    claims = judged(**study(fig02=curve({2: 0.9, 8: 0.8}), fig13=bn_batches({(8, 4): 0.8, (8, 2): 0.7})))
    assert tuple(claims.loc["C2", ["verdict", "figures", "absent"]]) == ("supported", "fig02", "fig03")
    assert tuple(claims.loc["C21", ["verdict", "evidence", "absent"]]) == (
        "not run", "the study has no results of fig13b", "fig13b"
    )  # fmt: skip
    assert tuple(claims.loc["C8", ["verdict", "evidence"]]) == (
        "not run", "the study has no results of fig01, fig05, fig06"
    )  # fmt: skip


def test_a_grid_without_the_batch_sizes_of_a_claim_is_not_run():
    small = curve({2: 0.9, 4: 0.8})
    claims = judged(**study(fig01=small, fig02=small, fig03=small))
    for claim, figures in (("C1", "fig01"), ("C2", "fig02, fig03")):
        row = claims.loc[claim]
        assert (row["verdict"], row["absent"]) == ("not run", "")
        assert row["evidence"] == f"{figures}: the study lacks batch sizes that this compares"


def test_one_figure_that_refutes_a_claim_decides_it():
    case = study(fig02=curve({2: 0.9, 8: 0.8}), fig03=curve({2: 0.8, 8: 0.9}))
    row = judged(**case).loc["C2"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig03: ")
    assert row["evidence"].endswith("; of 2 comparisons 1 supported, 1 refuted")


@pytest.mark.parametrize(("claim", "figure"), [("C14", "fig08"), ("C17", "fig09"), ("C25", "fig17"), ("C8", "fig01")])
def test_a_pair_of_figures_of_which_one_is_absent_is_not_run_even_where_nothing_converged(claim: str, figure: str):
    assert judged(**study(**{figure: curve({2: DEAD, 64: DEAD})})).loc[claim, "verdict"] == "not run"


def test_what_is_beside_a_verdict():
    settings = AS_FIGURE_1 | {"data": "digits", "model": "resnet8", "weight_decay": 1e-4, "epochs": 10}
    row = judged(**study(fig01=curve({2: 0.9, 8: 0.9, 128: SOME}, **settings))).loc["C3"]
    assert row["thresholds"] == "large_batch = 128, converged_share = 0.5"
    assert row["differences"] == "ResNet-8 on digits, not reduced AlexNet on CIFAR-10; 10 epochs, not 82"
    assert row["seeds"] == "5" and row["reading"].startswith("a study that stops before large m cannot tell")
    assert row["verdict"] == "undecided" and row["to_decide"].endswith("by the widths of the intervals")
    (part,) = json.loads(row["comparisons"])
    assert part["comparison"] in row["comparisons"], "as it is read, not escaped"
    assert {key: part[key] for key in ("effect", "at_least", "at_most", "unit", "seeds", "verdict")} == {
        "effect": 60, "at_least": 50, "at_most": None, "unit": "% of seeds", "seeds": 5, "verdict": "undecided",
    }  # fmt: skip
    fewer = judged(**study(fig02=curve({2: 0.9, 8: [0.8] * 3}), fig03=curve({2: 0.9, 8: 0.8}))).loc["C2"]
    assert fewer["seeds"] == "3 to 5" and fewer["to_decide"] == fewer["differences"] == ""


def test_an_experiment_in_which_nothing_converged_decides_nothing():
    claims = judged(**study(fig01=curve({2: DEAD, 16: DEAD}), sec32=curve({2: DEAD, 16: DEAD})))
    for claim in ("C1", "C3", "C5"):
        assert claims.loc[claim, "verdict"] == "undecided"
        assert claims.loc[claim, "evidence"].startswith("fig01: no run has converged")
        assert claims.loc[claim, "seeds"] == ""
    assert claims.loc["C6", "verdict"] == "refuted"


def test_the_same_generator_gives_the_same_judgement():
    case = CASES["C14"]["undecided"]
    pd.testing.assert_frame_equal(judged(**case), judged(**case))


def test_a_figure_of_several_experiments_is_judged_for_each():
    runs = pd.concat([curve({2: 0.9, 64: 0.8}, experiment="first"), curve({8: 0.8, 64: 0.9}, experiment="second")])
    row = judged({"fig15": {"kind": "best", "experiments": ["first", "second"]}}, runs).loc["C23"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig15, second: ")


def test_thresholds_are_a_closed_list():
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    check_config(config)
    for key, value, words in (
        ("margn", 0.2, r"claims.margn: unknown key \(did you mean 'margin'\?\); allowed: margin, same"),
        ("same", -1, "claims.same: -1 is not allowed; allowed: a number from 0 to 100, points of accuracy"),
    ):
        with pytest.raises(UserError, match=f"config/config.yaml: {words}"):
            check_config(config | {"claims": THRESHOLDS | {key: value}})


def random_study(generator: np.random.Generator) -> dict:
    """All figures of the paper over random parts of small grids: missing cells, seeds, columns, whole experiments."""
    names = [*(f"fig{number:02}" for number in range(1, 19)), "fig13a", "fig13b", "sec32"]
    names = [name for name in names if generator.random() < 0.8]
    tables = []
    for name in names:
        sizes = generator.choice([2, 4, 8, 16, 32, 64, 128, 512], generator.integers(1, 6), replace=False)
        bs = [2, 8, 64] if name in ("fig13a", "fig13b", "fig14") else [None]
        rates = [RATE * 2.0**k for k in range(generator.integers(1, 4))]
        cells = {
            (m, b or m, rate): generator.choice([0.9, 0.85, 0.3, DEAD, np.nan], generator.integers(1, 4)).tolist()
            for m in sizes for b in bs for rate in rates if generator.random() < 0.7
        }  # fmt: skip
        runs = table(cells, experiment=f"of-{name}", norm=generator.choice(["none", "batch"]))
        if len(runs) and generator.random() < 0.2:
            runs[generator.choice(["test_images", "selection_accuracy", "converged", "norm", "base_lr"])] = np.nan
        tables.append(runs)
    specs = {name: {"kind": "accuracy", "experiments": [f"of-{name}"]} for name in names}
    for name in {"fig04"} & set(names):
        specs[name]["base_lr"] = RATE
    points = [(f"run{i}", 0, m, generator.choice([np.nan, 0, 1.0, 2.0]), 8) for i in range(3) for m in (2, 8, 32, 64)]
    variance = pd.DataFrame(points, columns=NO_VARIANCE.columns).sample(frac=generator.random(), random_state=generator)
    return {"figures": specs, "runs": pd.concat(tables or [table({})]), "variance": variance}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_judging_never_fails_on_part_of_a_study(seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claims = judged(**random_study(np.random.default_rng(seed)))
    assert list(claims.index) == list(CASES)
    assert set(claims["verdict"]) <= {"supported", "refuted", "undecided", "not run"}
    decided = claims[claims["verdict"].isin(["supported", "refuted"])]
    assert decided[["low", "high"]].notna().all(axis=None)
