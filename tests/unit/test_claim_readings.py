"""How the text of claims is read where it leaves room: see docs/verdicts.md."""

import json

import numpy as np
import pytest
from helpers.claim_cases import CASES
from helpers.claims import DEAD, RATE, THRESHOLDS, bn_batches, curve, judged, lines, one_seed, study, table

from smallbatch.analysis.grid import build_grid
from smallbatch.analysis.predicates import convergence
from smallbatch.analysis.predicates.helpers import observed_best_rate_index

SIZES = [2**step for step in range(9)]
BEST_WITHIN = {
    "C1": (1, 8), "C2": (2, 4), "C9": (8, 64), "C10": (4, 32), "C12": (4, 8), "C15": (4, 8), "C16": (4, 16),
    "C18": (16, 64), "C21": (4, 8), "C22": (16, 64), "C23": (1, 32),
}  # fmt: skip
"""The sizes among which the paper has the best, the smallest and the largest."""


@pytest.mark.slow
@pytest.mark.parametrize("best", SIZES)
def test_each_claim_has_the_best_where_the_paper_has_it(best: int):
    accuracies = {size: 0.9 if size == best else 0.8 for size in SIZES}
    over_m = {f"fig{number:02}": curve(accuracies, norm="none") for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 15)}
    over_b = bn_batches({(256, b): accuracy for b, accuracy in accuracies.items()})
    claims = judged(**study(**over_m, fig13a=over_b, fig13b=over_b, fig14=over_b))
    for claim, (low, high) in BEST_WITHIN.items():
        found = [
            part for part in json.loads(claims.loc[claim, "comparisons"]) if ": best inside " in part["comparison"]
        ]
        inside = low <= best <= high
        assert found and all((part["effect"] > 0) == inside for part in found), claim


def test_the_best_rate_is_usable_up_to_16_on_one_and_8_on_the_other_data():
    claims = judged(**study(**dict.fromkeys(("fig07", "fig08", "fig09"), curve(dict.fromkeys(SIZES, 0.9)))))
    found = [(part["comparison"][:5], part["effect"]) for part in json.loads(claims.loc["C13", "comparisons"])]
    bounds = {"fig07": 16, "fig08": 16, "fig09": 8}
    assert found == [(figure, 100 * (m <= bound)) for figure, bound in bounds.items() for m in SIZES]


SMALL = {2: 0.76, 4: 0.76, 8: 0.77, 16: 0.76, 32: 0.76}


@pytest.mark.parametrize(
    ("claim", "figure"),
    [("C3", "fig01"), ("C4", "fig01"), ("C6", "sec32"), ("C12", "fig07"), ("C13", "fig08"), ("C24", "fig16")],
)
def test_a_study_that_stops_before_large_m_cannot_tell_what_they_do(claim: str, figure: str):
    claims = judged(**study(**{figure: curve(SMALL, norm="none")})).loc[claim]
    assert claims["verdict"] == "not run" and claims["effect"] == claims["figures"] == ""
    assert claims["evidence"] == f"{figure}: the study lacks batch sizes that this compares; large m begin at 128"
    reaching = judged(**study(**{figure: curve(SMALL | {128: DEAD}, norm="none")})).loc[claim]
    assert reaching["verdict"] in ("supported", "refuted", "undecided")


def test_half_a_claim_may_be_refuted_but_not_supported():
    half = study(fig07=curve({2: 0.85, 8: 0.9, 16: 0.8, 32: 0.8}))
    assert judged(**half).loc["C12", "verdict"] == "not run"
    assert json.loads(judged(**half).loc["C12", "comparisons"])[0]["verdict"] == "supported"
    assert judged(**study(fig07=curve({2: 0.95, 8: 0.9, 32: 0.8}))).loc["C12", "verdict"] == "refuted"


def test_failing_more_often_is_no_loss_of_accuracy():
    level = {2: [0.9] * 5, 8: [0.9] * 4 + [DEAD], 32: [0.9] * 2 + [DEAD] * 3, 128: [DEAD] * 5}
    row = judged(**study(fig01=curve(level | {4: 0.9}, test_images=10**9))).loc["C4"]
    assert row["verdict"] == "refuted" and row["effect"] == "+0.0 points"
    assert row["evidence"].startswith("fig01: from m = 2 to the last m at which all seeds train accuracy falls by 0.0 ")


def test_both_halves_of_the_claim_on_bn_batches_can_be_true():
    best_at_4 = {(m, b): 0.9 if b == 4 else 0.8 for m in (2, 4, 8, 16, 64) for b in (2, 4, 8, 16, 64) if b <= m}
    row = judged(**study(fig13b=bn_batches(best_at_4))).loc["C21"]
    assert row["verdict"] == "supported"
    said = [part["comparison"] for part in json.loads(row["comparisons"])]
    assert [text.split(":")[0] for text in said if "whole batch" in text] == ["fig13b, m = 16", "fig13b, m = 64"]


def test_with_bn_ranges_are_compared_from_where_the_smallest_m_no_longer_suffer():
    dead_at_2 = {2: [DEAD] * 3, 8: [0.9] * 3, 32: [0.9, 0.9, DEAD], 128: [0.8, DEAD, DEAD]}
    claims = judged(**study(fig16=lines(dead_at_2), fig05=lines(dead_at_2)))
    assert claims.loc["C24", "verdict"] == claims.loc["C9", "verdict"] == "supported"
    assert json.loads(claims.loc["C24", "comparisons"])[0]["effect"] == pytest.approx(2)  # 3, 2, 1 at m = 8, 32, 128
    assert judged(**study(fig16=lines(dead_at_2, norm="none"))).loc["C24", "verdict"] != "supported"


def test_a_range_may_widen_at_one_step_and_still_shrink():
    widths = {2: 4, 4: 4, 8: 3, 16: 4, 32: 2, 64: 2, 128: 1}
    runs = lines({m: [0.9] * width + [DEAD] * (5 - width) for m, width in widths.items()}, norm="none")
    row = judged(**study(fig16=runs)).loc["C24"]
    assert row["verdict"] == "supported"
    assert row["effect"] == "+3.0 rates"  # least squares: -sum((x - 3) y) / 28 * 6 with x = 0 ... 6: 14 / 28 * 6


def test_curves_are_compared_over_the_epochs_of_each_learning_rate():
    row = judged(**CASES["C7"]["refuted"]).loc["C7"]
    assert row["evidence"].startswith("fig04, epochs 1 to 2: m = ")
    effects = [(part["comparison"], part["effect"]) for part in json.loads(row["comparisons"])]
    assert effects == [
        ("fig04, epochs 1 to 2: m = 4 averages 50.0 %, all of m = 4 ... 64 45.0 %", pytest.approx(5)),
        ("fig04, epochs 1 to 2: m = 64 averages 40.0 %, all of m = 4 ... 64 45.0 %", pytest.approx(-5)),
        ("fig04, epochs 3 to 4: m = 4 averages 90.0 %, all of m = 4 ... 64 90.0 %", pytest.approx(0)),
        ("fig04, epochs 3 to 4: m = 64 averages 90.0 %, all of m = 4 ... 64 90.0 %", pytest.approx(0)),
        ("fig04, epochs 1 to 4: m = 128 averages 55.0 %, m = 4 ... 64 67.5 %", pytest.approx(12.5)),
    ]


def test_a_run_that_diverged_has_the_accuracy_of_chance_all_along():
    case = CASES["C7"]["supported"]
    runs = case["runs"].assign(status=np.where(case["runs"]["batch_size"] == 128, "diverged", "finished"))
    runs.loc[runs["status"] == "diverged", ["accuracy", "selection_accuracy"]] = DEAD
    *_, larger = json.loads(judged(**case | {"runs": runs}).loc["C7", "comparisons"])
    assert larger["effect"] == pytest.approx(70.25 - 10)


def test_rates_are_chosen_on_the_validation_split_and_the_test_accuracy_there_counts():
    cells = {(8, 8, RATE): [0.80], (8, 8, 2 * RATE): [0.90], (16, 16, RATE): [0.85]}
    runs = table(cells, test_images=10**9)
    assert judged(**study(fig01=runs)).loc["C1", "effect"] == "+5.0 points"
    honest = runs.assign(selection_accuracy=[0.9, 0.8, 0.8])
    assert judged(**study(fig01=honest)).loc["C1", "effect"] == "-5.0 points"


def test_the_best_rate_in_words_is_that_of_the_data():
    accuracies = [0.9, *[0.8] * 7]
    runs = one_seed({2: accuracies, 8: accuracies, 128: [0.9, *[DEAD] * 7]})
    grid = build_grid(runs, np.random.default_rng(1))
    assert [*grid.overall_best_rate_index()[:2]] == [0, 6], "in the first sample another is the best"
    assert [*observed_best_rate_index(grid)[:2]] == [0, 6], "one seed has each sample's own"
    (largest,) = convergence.best_rate_fails_at_largest(THRESHOLDS, grid)
    assert largest.sentence == "at the best rate 2⁻⁸ 1 of 1 seed converged at m = 128"
    each = [part.sentence for part in convergence.best_rate_usable_up_to(THRESHOLDS, grid, 16)]
    assert each == [f"at the best rate 2⁻⁸, m = {m}: 1 of 1 seed converged" for m in (2, 8, 128)]


def test_of_several_seeds_the_best_rate_is_that_of_the_data_in_all_samples():
    tied = [[0.9, 0.7, 0.8], [0.8, 0.92, 0.65]]
    grid = build_grid(lines({2: tied * 2, 8: [0.8] * 4, 128: [DEAD] * 4}), np.random.default_rng(1))
    assert [*grid.overall_best_rate_index()[:2]] == [0, 2] and set(observed_best_rate_index(grid)) == {0}
