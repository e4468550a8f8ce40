"""What a claim compares where cells are missing, seeds fail, or sizes lie at the ends of what it speaks of."""

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from helpers.claims import (
    AS_FIGURE_1,
    DEAD,
    RATE,
    SOME,
    THRESHOLDS,
    bn_batches,
    curve,
    curves,
    judged,
    lines,
    measured,
    one_seed,
    pair,
    seeds,
    study,
    table,
)

from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.noise import completed_runs
from smallbatch.analysis.predicates import (
    accuracy_declines,
    best_accuracy,
    convergence,
    converging_rates,
    gains_between_grids,
    large_batches,
    learning_curves,
)
from smallbatch.analysis.verdicts import Comparison

MISSING = [np.nan] * 5
THREE = [SOME, [0.7, 0.7, 0.7, DEAD, DEAD]]
LONGER = {8: [0.9, 0.86, DEAD], 32: [0.8, 0.83, DEAD], 64: [0.7, 0.66, DEAD], 128: [0.8, 0.7, DEAD]}
CORNERS: dict[str, tuple[dict, list[tuple[str, float]]]] = {
    # The best rate is 2^-7; 2 of 5 seeds train there.
    "C3": (
        study(fig01=lines({2: [0.8, 0.9], 8: [0.8, 0.85], 128: [0.7, SOME]})),
        [("fig01: at the best rate 2⁻⁷ 2 of 5 seeds converged at m = 128", 60)],
    ),
    # 30 points at 2^-8; at 2^-7 5 points up to m = 32, past a missing cell, before 3 of 5 fail; at 2^-6 m = 2 fails.
    "C4": (
        study(fig01=lines({
            2: [0.9, 0.8, DEAD], 8: [0.8, MISSING, 0.9], 32: [0.7, 0.75, 0.9], 64: [0.6, SOME, 0.9],
            128: [0.6, MISSING, DEAD],
        })),
        [
            (
                "fig01: from m = 2 to the last m at which all seeds train accuracy falls by 17.5 points, over 2 rates",
                17.5,
            ),
            ("fig01: of the rates that train at m = 2, 30 % fail at the largest m", 30),
        ],
    ),
    # A rate that some m lacks counts for none.
    "C5": (
        study(fig01=lines({
            2: [0.9, 0.9, 0.9], 8: [0.9, DEAD, DEAD], 16: [0.9, DEAD, SOME], 64: [DEAD, DEAD, MISSING]
        })),
        [
            ("fig01: 1.5 rates converged on average over m ≤ 8, 1.0 at m = 16", 0.5),
            ("fig01: 1.5 rates converged on average over m ≤ 8, 0.0 at m = 64", 1.5),
        ],
    ),
    # Where most seeds do is the second rate up to m = 8, which the data say and no sample.
    "C6": (
        study(sec32=lines({2: THREE, 3: THREE, 4: THREE, 5: THREE, 6: THREE, 8: [0.76, SOME], 16: [SOME, DEAD],
                           128: [DEAD, DEAD]})),
        [
            *[(f"sec32: at the rate where most do, m = {m}: 3 of 5 seeds converged", 60) for m in (2, 3, 4, 5, 6)],
            ("sec32: at the rate where most do, m = 8: 5 of 5 seeds converged", 100),
            ("sec32: at the rate where most do, m = 16: 2 of 5 seeds converged", 60),
            ("sec32: at the rate where most do, m = 128: 0 of 5 seeds converged", 100),
            ("sec32: best at m = 8 at 2⁻⁸ (76.0 %), 76 % expected", 0),
        ],
    ),
    # m = 2 is in neither half.
    "C7": (
        curves({2: [0.1, 0.2], 4: [0.5, 0.9], 16: [0.5, 0.9], 64: [0.5, 0.9], 128: [0.4, 0.8], 256: [0.3, 0.7]}),
        [
            *[
                (f"fig04, epochs {epochs}: m = {m} averages {at} %, all of m = 4 ... 64 {at} %", 0)
                for epochs, at in (("1 to 2", "50.0"), ("3 to 4", "90.0")) for m in (4, 16, 64)
            ],
            ("fig04, epochs 1 to 4: m = 128 averages 60.0 %, m = 4 ... 64 70.0 %", 10),
            ("fig04, epochs 1 to 4: m = 256 averages 50.0 %, m = 4 ... 64 70.0 %", 20),
        ],
    ),
    # -10, 4 and 6 at the m that both have.
    "C8": (
        pair({2: 0.8, 4: 0.8, 8: 0.8, 32: 0.8}, {4: 0.7, 8: 0.84, 32: 0.86, 64: 0.9}, "fig01", "fig05"),
        [("fig05: median gain +4.0 points over m = 4 ... 32, from -10.0 at m = 4 to +6.0 at m = 32", 4)],
    ),
    "C9": (
        study(fig05=curve({2: 0.5, 4: 0.8, 8: 0.9, 64: 0.95, 128: 0.85})),
        [
            ("fig05: best inside at m = 64 at 2⁻⁸ (95.0 %), outside at m = 128 at 2⁻⁸ (85.0 %)", 10),
            ("fig05: m = 2 reaches 50.0 %, m = 64 at 2⁻⁸ (95.0 %) is the best in 8 ... 64", 45),
        ],
    ),
    "C12": (
        study(fig08=curve({4: 0.95, 8: 0.9, 32: 0.88, 128: 0.82})),
        [
            ("fig08: best inside at m = 4 at 2⁻⁸ (95.0 %), outside at m = 32 at 2⁻⁸ (88.0 %)", 7),
            ("fig08: from 90.0 % at m = 8 to 82.0 % at m = 128", 8),
        ],
    ),
    "C13": (
        study(fig08=lines({16: [0.8, 0.9], 32: [0.8, SOME], 128: [0.8, DEAD]})),
        [
            ("fig08: at the best rate 2⁻⁷, m = 16: 5 of 5 seeds converged", 100),
            ("fig08: at the best rate 2⁻⁷, m = 32: 2 of 5 seeds converged", 60),
            ("fig08: at the best rate 2⁻⁷, m = 128: 0 of 5 seeds converged", 100),
        ],
    ),
    "C15": (
        study(fig10=curve({4: 0.9, 8: 0.88, 16: 0.89, 128: 0.8, 256: 0.7})),
        [
            ("fig10: best inside at m = 4 at 2⁻⁸ (90.0 %), outside at m = 16 at 2⁻⁸ (89.0 %)", 1),
            ("fig10: m = 16 reaches 89.0 %, m = 4 ... 8 89.0 %", 0),
            ("fig10: m = 128 reaches 80.0 %, m = 4 ... 8 89.0 %", 9),
        ],
    ),
    # Over m = 16, 32 and 64, which both have.
    "C16": (
        pair(
            {8: 0.5, 16: 0.9, 32: 0.88, 64: 0.86, 128: 0.7}, {8: 0.9, 16: 0.7, 32: 0.65, 64: 0.6, 256: 0.2},
            "fig10", "fig11",
        ),
        [
            ("fig11: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 32 at 2⁻⁸ (65.0 %)", 25),
            ("fig11: m = 16 ... 64 lose 10.0 points, 4.0 in fig10", 6),
        ],
    ),
    "C17": (
        study(fig11=curve({8: 0.9, 32: 0.8, 33: 0.7, 64: 0.6})),
        [("fig11: m = 33 ... 64 average 65.0 %, m = 8 ... 32 85.0 %", 20)],
    ),
    # 75 and 65 %, 85 and 50 %, 10 and 30 %; at 2^-6 no m trains.
    "C19": (
        study(fig12=lines({8: [0.8, 0.9, DEAD], 32: [0.7, 0.8, DEAD], 64: [0.7, 0.6, 0.5], 128: [0.6, 0.4, DEAD]})),
        [
            ("fig12: large m lie 35.0 points below small at the best rate 2⁻⁷, 10.0 at 2⁻⁸", 25),
            ("fig12: large m lie 35.0 points below small at the best rate 2⁻⁷, -20.0 at 2⁻⁶", 55),
            *[(f"fig12: m = {m} at {rate}: 5 of 5 seeds converged", 100) for m in (8, 32) for rate in ("2⁻⁸", "2⁻⁷")],
        ],
    ),
    # log2 m = 3, 4, 6 lie -4/3, -1/3, 5/3 from their mean, accuracies 5, -5, 0 points: slope -5 / (42 / 9), times -3.
    "C20": (
        study(fig14=bn_batches({(8, 4): 0.8, (16, 4): 0.7, (64, 4): 0.75, (16, 8): 0.8})),
        [("fig14, b = 4: from 80.0 % at m = 8 to 75.0 % at m = 64", 15 * 9 / 42)],
    ),
    "C21": (
        study(fig13b=bn_batches({
            (16, 2): 0.7, (16, 4): 0.8, (16, 8): 0.85, (16, 16): 0.9, (8, 8): 0.9, (8, 4): 0.7
        })),
        [
            ("fig13b, m = 16: best inside at b = 8 at 2⁻⁸ (85.0 %), outside at b = 16 at 2⁻⁸ (90.0 %)", -5),
            ("fig13b, m = 16: best below m at b = 8 at 2⁻⁸ (85.0 %), the whole batch has 90.0 %", -5),
        ],
    ),
    # log2 m = 1, 3, 4 lie -5/3, 1/3, 4/3 from their mean, accuracies 6, -4, -2 points: slope -14 / (42 / 9), times -3.
    "C23": (
        study(fig15=curve({2: 0.9, 8: 0.8, 16: 0.82, 64: 0.5}, norm="none")),
        [
            ("fig15: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (50.0 %)", 40),
            ("fig15: from 90.0 % at m = 2 to 82.0 % at m = 16", 9),
        ],
    ),
    # With BN from m = 8 on: widths 3, 2, 1 at -5/3, -2/3, 7/3 from the mean of log2 m: slope -4 / (78 / 9), times -4.
    "C24": (
        study(fig16=lines({4: [0.9] * 3, 8: [0.9] * 3, 16: [0.9, 0.9, DEAD], 128: [0.9, DEAD, DEAD]})),
        [("fig16: 3.0 rates converged at m = 8, 1.0 at m = 128", 16 * 9 / 78)],
    ),
    # Best rates gain 5, 2, 0 and 10; at 2^-7, the best of the shorter training and a rate of both, 1, 2, 6 and 20.
    "C25": (
        study(
            fig17=lines({8: [0.8, 0.85], 32: [0.8, 0.81], 64: [0.7, 0.6], 128: [0.7, 0.5]}),
            fig08=table({
                (m, m, RATE * 2**step): seeds(accuracy)
                for m, line in LONGER.items() for step, accuracy in zip((-1, 1, 2), line, strict=True)
            }),
        ),
        [
            ("fig08: +4.2 points on average over m = 8 ... 128 against fig17", 4.25),
            ("fig08: at the best rate of fig17, 2⁻⁷: +13.0 points at m > 32, +1.5 at smaller m", 11.5),
            ("fig08: m = 64 ... 128 average 75.0 %, m = 8 ... 32 86.5 %", 11.5),
        ],
    ),
}  # fmt: skip
"""Studies at the corners of what a claim compares, with its comparisons and their effects."""


@pytest.mark.parametrize("claim", CORNERS)
def test_what_is_compared_at_the_corners_of_a_claim(claim: str):
    case, expected = CORNERS[claim]
    found = json.loads(judged(**case).loc[claim, "comparisons"])
    assert [part["comparison"] for part in found] == [words for words, _ in expected]
    assert [part["effect"] for part in found] == pytest.approx([effect for _, effect in expected], abs=1e-5)
    assert {part["seeds"] for part in found} == {5}


def test_ranges_without_a_rate_that_all_sizes_have_are_unknown():
    row = judged(**study(fig01=lines({2: [0.9, MISSING], 64: [MISSING, 0.9]}))).loc["C5"]
    assert row["verdict"] == "undecided" and row["effect"] == ""
    assert [part["effect"] for part in json.loads(row["comparisons"])] == [None]
    assert row["evidence"] == "fig01: there is no rate that all batch sizes have results at"


def compared(claims, claim: str) -> list[str]:
    """What is compared, in words."""
    return [part["comparison"] for part in json.loads(claims.loc[claim, "comparisons"])]


def test_what_cannot_be_compared_is_not():
    claims = judged(**study(
        fig01=curve({2: 0.9, 128: DEAD}),  # two sizes are no grid that reaches large m
        fig12=lines({8: [0.9, 0.8], 32: [MISSING, 0.9], 64: [0.8, 0.7]}),  # m = 32 has no seed at 2^-8
        fig16=lines({2: [0.9, MISSING], 8: [MISSING, 0.9], 128: [0.9, 0.9]}, norm="none"),
    ))  # fmt: skip
    assert claims.loc["C3", "verdict"] == "not run" and compared(claims, "C3") == []
    cells = [words for words in compared(claims, "C19") if "converged" in words]
    assert cells == [f"fig12: m = {cell}: 5 of 5 seeds converged" for cell in ("8 at 2⁻⁸", "8 at 2⁻⁷", "32 at 2⁻⁷")]
    assert claims.loc["C24", "evidence"] == "fig16: there is no rate that all batch sizes have results at"
    assert compared(judged(**study(fig12=lines({8: [0.9, 0.8], 32: [0.8, 0.9]}))), "C19") == []


def test_a_cell_of_one_seed_is_compared_as_others_are():
    claims = judged(**study(fig12=one_seed({8: [0.9, 0.8], 64: [0.7, 0.6]})))
    assert compared(claims, "C19")[1:] == [f"fig12: m = 8 at {rate}: 1 of 1 seed converged" for rate in ("2⁻⁸", "2⁻⁷")]


def test_one_curve_does_not_coincide_with_itself():
    grid = build_grid(curve({4: 0.9, 128: 0.8}), np.random.default_rng(0))
    assert [*learning_curves.coincide(THRESHOLDS, grid, 4, 64)] == []
    (beyond,) = learning_curves.worse_beyond(THRESHOLDS, grid, 4, 64)
    assert beyond.sentence == "m = 128 averages 80.0 %, m = 4 90.0 %"
    assert [*learning_curves.worse_beyond(THRESHOLDS, grid.select_sizes(grid.sizes > 4), 4, 64)] == []


def test_a_range_may_shrink_over_two_sizes():
    grid = build_grid(lines({2: [0.9, 0.9], 8: [0.9, DEAD]}), np.random.default_rng(0))
    (only,) = converging_rates.range_shrinks_over_all(THRESHOLDS, grid)
    assert only.sentence == "2.0 rates converged at m = 2, 1.0 at m = 8" and only.effect[0] == pytest.approx(1)


def test_the_smallest_size_suffers_against_the_best_of_the_range_alone():
    grid = build_grid(curve({2: 0.5, 8: 0.9, 64: 0.8, 128: 0.95}), np.random.default_rng(0))
    (only,) = best_accuracy.smallest_suffers(THRESHOLDS, grid, 8, 64)
    assert only.sentence == "m = 2 reaches 50.0 %, m = 8 at 2⁻⁸ (90.0 %) is the best in 8 ... 64"
    assert only.effect[0] == pytest.approx(40)


def test_the_rates_at_which_any_size_trains_are_those_of_the_data():
    grid = build_grid(lines({8: [0.9, SOME], 64: [0.9, THREE[1]]}), np.random.default_rng(6))
    assert grid.converged[1, :, 1].max() <= 0.5, "in the first sample no size trains at the second rate"
    each = [(part.sentence, part.effect[0]) for part in convergence.small_are_stable(THRESHOLDS, grid)]
    assert each == [
        ("m = 8 at 2⁻⁸: 5 of 5 seeds converged", pytest.approx(100)),
        ("m = 8 at 2⁻⁷: 2 of 5 seeds converged", pytest.approx(40)),
    ]


def test_what_the_second_is_better_by_is_in_points():
    first, second = (build_grid(curve({8: accuracy}), np.random.default_rng(0)) for accuracy in (0.5, 0.9))
    (only,) = best_accuracy.better_by(THRESHOLDS, first, second, 3)
    assert only.effect[0] == pytest.approx(40) and only.at_least == 3
    assert only.sentence == f"best at m = 8 at 2⁻⁸ (90.0 %), in {first.where} at m = 8 at 2⁻⁸ (50.0 %)"


def test_the_growth_of_variance_is_not_told_from_two_sizes_or_batch_statistics_of_all_of_a_batch():
    whole = measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 1.1, 4: 2.1, 8: 4.1}, norm="batch")
    assert judged(**whole).loc["C26", "verdict"] == "not run"
    two = judged(**measured({2: 1.0, 4: 2.0}, {2: 1.1, 4: 2.1})).loc["C26"]
    assert (two["verdict"], two["comparisons"]) == ("not run", "[]")
    assert two["evidence"] == "no variance was measured at three batch sizes or more"


def test_large_sizes_are_those_of_the_second_where_there_are_two():
    first, second = (build_grid(curve({8: 0.9, 64: large}), np.random.default_rng(0)) for large in (0.8, 0.7))
    (only,) = large_batches.large_stay_below(THRESHOLDS, first, second)
    assert only.effect[0] == pytest.approx(20)


def grid_of(runs: pd.DataFrame, seed: int = 0) -> Grid:
    return build_grid(completed_runs(runs), np.random.default_rng(seed))


def found(comparisons: Iterable[Comparison]) -> list[tuple[str, float]]:
    """Each comparison's sentence and effect."""
    return [(part.sentence, pytest.approx(part.effect[0], abs=1e-5)) for part in comparisons]


ONE_SIDED = [
    best_accuracy.smallest_suffers(THRESHOLDS, grid_of(curve({8: 0.9, 64: 0.8, 128: 0.7})), 8, 64),  # 8 is no smaller
    best_accuracy.smallest_suffers(THRESHOLDS, grid_of(curve({2: 0.9, 128: 0.8})), 8, 64),
    accuracy_declines.falls_more(
        THRESHOLDS, grid_of(curve({8: 0.9, 16: 0.8, 32: 0.7})), grid_of(curve({16: 0.8, 64: 0.7})), 16
    ),
    accuracy_declines.improves_down_to_two_without_norm(THRESHOLDS, grid_of(curve({2: 0.9, 8: 0.8}))),  # has BN
    accuracy_declines.improves_down_to_two_without_norm(THRESHOLDS, grid_of(curve({4: 0.9, 8: 0.8}, norm="none"))),
    accuracy_declines.improves_down_to_two_without_norm(THRESHOLDS, grid_of(curve({2: 0.9, 64: 0.8}, norm="none"))),
    gains_between_grids.gains_more_at_large_batches(THRESHOLDS, *[grid_of(curve({2: 0.9, 32: 0.8}))] * 2),
    gains_between_grids.gains_more_at_large_batches(THRESHOLDS, *[grid_of(curve({64: 0.9, 128: 0.8}))] * 2),
    converging_rates.smallest_have_widest_range(THRESHOLDS, grid_of(curve({2: 0.9, 8: 0.8}))),
    converging_rates.smallest_have_widest_range(THRESHOLDS, grid_of(curve({16: 0.9, 64: 0.8}))),
    converging_rates.range_shrinks_over_all(THRESHOLDS, grid_of(curve({2: 0.9}))),
    large_batches.large_stay_below(THRESHOLDS, grid_of(curve({2: 0.9, 32: 0.8}))),
    large_batches.large_stay_below(THRESHOLDS, grid_of(curve({64: 0.9, 128: 0.8}))),
    large_batches.large_degrade_most_at_best_rate(THRESHOLDS, grid_of(lines({2: [0.9, 0.8], 32: [0.8, 0.7]}))),
    large_batches.large_degrade_most_at_best_rate(THRESHOLDS, grid_of(lines({64: [0.9, 0.8], 128: [0.8, 0.7]}))),
]
"""Of grids that lack one side of what is compared."""


@pytest.mark.parametrize("comparisons", ONE_SIDED)
def test_nothing_is_compared_where_one_side_is_missing(comparisons: Iterable[Comparison]):
    assert [*comparisons] == []


@pytest.mark.parametrize(
    "gain",
    [gains_between_grids.median_gain, gains_between_grids.mean_gain, gains_between_grids.gains_more_at_large_batches],
)
def test_a_loss_that_rounds_to_nothing_is_not_minus_nothing(gain):
    before, after = (grid_of(curve({8: accuracy, 64: accuracy})) for accuracy in (0.9, 0.8999))
    (part,) = gain(THRESHOLDS, before, after)
    assert "+0.0" in part.sentence and "-0.0" not in part.sentence


def test_thresholds_are_written_alike_in_what_is_computed_and_beside_it():
    row = judged(**study(fig04=lines({4: [0.9], 128: [0.8]}))).loc["C7"]
    assert "within 1.0 points" in row["predicate"] and row["thresholds"] == "same = 1.0, margin = 0.2"


def test_a_cell_that_is_missing_is_not_where_most_seeds_converge():
    sizes = {2: [0.9, 0.9], 8: [MISSING, DEAD], 128: [DEAD, DEAD]}
    words = [part.sentence for part in convergence.trains_only_up_to(THRESHOLDS, grid_of(lines(sizes)), 8)]
    assert words[1] == "at the rate where most do, m = 8: 0 of 5 seeds converged"


def test_half_of_the_seeds_are_not_most_of_them():
    half = [0.9, 0.9, DEAD, DEAD]
    alone = grid_of(lines({8: [[0.9] * 4, half], 64: [[0.9] * 4, half]}))
    assert found(convergence.small_are_stable(THRESHOLDS, alone)) == [("m = 8 at 2⁻⁸: 4 of 4 seeds converged", 100)]
    falling = grid_of(lines({8: [[0.9] * 4, half], 64: [[0.9] * 4, half], 128: [half, [DEAD] * 4]}))
    (only,) = convergence.collapses(THRESHOLDS, falling)
    assert only.effect[0] == pytest.approx(50), "2 of 4 at 2^-8; the other rate does not train at m = 8"


def test_a_rate_is_followed_until_the_first_m_at_which_a_seed_fails():
    # At 2^-8 10 points are lost before m = 8, where 3 of 5 fail; at 2^-7 nothing is known beyond the smallest m.
    sizes = {2: [0.9, 0.9], 4: [0.8, SOME], 8: [SOME, 0.7], 128: [0.6, 0.6]}
    ends = "from m = 2 to the last m at which all seeds train"
    expected = [(f"{ends} accuracy falls by 10.0 points, over 1 rate", 10)]
    assert found(accuracy_declines.degrades_before_collapse(THRESHOLDS, grid_of(lines(sizes)))) == expected
    alone = {2: [0.9], 4: [0.8], 128: [DEAD]}
    assert found(accuracy_declines.degrades_before_collapse(THRESHOLDS, grid_of(one_seed(alone)))) == expected


def test_the_largest_m_is_that_which_a_rate_has_also_with_one_seed():
    sizes = {2: [0.9, 0.9], 4: [0.9, DEAD], 64: [0.9, np.nan], 128: [DEAD, np.nan]}
    fails = ("of the rates that train at m = 2, 100 % fail at the largest m", 100)
    assert found(convergence.collapses(THRESHOLDS, grid_of(one_seed(sizes)))) == [fails]


def test_the_rates_of_one_seed_are_counted_where_the_data_have_them():
    one = grid_of(one_seed({2: [0.9, 0.9], 8: [0.9, 0.9], 64: [0.9, DEAD]}))
    assert found(converging_rates.smallest_have_widest_range(THRESHOLDS, one)) == [
        ("2.0 rates converged on average over m ≤ 8, 1.0 at m = 64", 1)
    ]


def test_the_best_rate_is_that_of_the_data_also_of_one_seed():
    two = grid_of(one_seed({8: [0.9, 0.89, 0.8], 64: [0.7, 0.6, 0.5]}), 1)
    assert [*two.overall_best_rate_index()[:2]] == [0, 1], "in the first sample another is the best"
    sentences = [part.sentence for part in large_batches.large_degrade_most_at_best_rate(THRESHOLDS, two)]
    below = "large m lie 20.0 points below small at the best rate 2⁻⁸"
    assert sentences == [f"{below}, 29.0 at 2⁻⁷", f"{below}, 30.0 at 2⁻⁶"]


def test_the_lowest_and_the_highest_gain_are_those_of_the_data():
    first = grid_of(curve({2: 0.7, 8: 0.7, 32: 0.7}))
    second = grid_of(curve({2: 0.8, 8: 0.81, 32: 0.82}, spread=0.05), 6)
    gained = (second.best() - first.best())[1]
    assert (gained.argmin(), gained.argmax()) == (2, 0), "in the first sample others are"
    (only,) = gains_between_grids.median_gain(THRESHOLDS, first, second)
    assert only.sentence == "median gain +11.0 points over m = 2 ... 32, from +10.0 at m = 2 to +12.0 at m = 32"


def test_the_slope_in_words_is_that_of_the_data():
    (words,) = compared(judged(**measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 1.0, 4: 2.8, 8: 8.0})), "C26")
    assert words == "made, epoch 0: slope 1.25 over m = 2 ... 8, 2 seeds"


def test_a_figure_that_lacks_sizes_does_not_end_the_comparisons():
    row = judged(**study(fig07=curve({8: 0.9}), fig08=curve({2: 0.85, 8: 0.9, 64: 0.8, 512: 0.7}))).loc["C12"]
    parts = [part["comparison"][:6] for part in json.loads(row["comparisons"])]
    assert (row["verdict"], row["figures"], parts) == ("supported", "fig08", ["fig08:", "fig08:"])


def test_all_figures_that_are_compared_are_named():
    both = dict.fromkeys(("fig02", "fig03"), curve({2: 0.9, 8: 0.8}))
    assert judged(**study(**both)).loc["C2", "figures"] == "fig02, fig03"
    assert judged(**measured({2: 1.0, 4: 2.0, 8: 4.0})).loc["C26", "figures"] == "variance"


def test_differences_from_the_paper_are_said_of_the_figure_that_has_them():
    papers, eight, twenty = (curve({2: 0.9, 8: 0.8, 128: 0.7}, **AS_FIGURE_1 | changed) for changed in (
        {}, {"model": "resnet8", "epochs": 10}, {"model": "resnet20", "epochs": 20},
    ))  # fmt: skip
    assert judged(**study(fig02=eight, fig03=twenty)).loc["C2", "differences"] == (
        "weight decay 0.0005, not 0.0001; fig02: 10 epochs, not 82; fig03: 20 epochs, not 82"
    )
    assert judged(**study(fig01=papers, fig02=eight, fig03=eight)).loc["C3", "differences"] == (
        "fig02, fig03: 10 epochs, not 82; fig02: weight decay 0.0005, not 0.0001; fig03: ResNet-8, not ResNet-20"
    )


@pytest.mark.parametrize("rate", [2**-8, 2**-40])
def test_of_a_figure_at_one_rate_the_others_are_not_compared(rate: float):
    accuracies = {(8, rate): 0.9, (8, 2 * rate): 0.95, (16, rate): 0.8, (16, 2 * rate): 0.99}
    case = study(fig01=table({(m, m, base_lr): seeds(accuracy) for (m, base_lr), accuracy in accuracies.items()}))
    case["figures"]["fig01"]["base_lr"] = rate
    assert judged(**case).loc["C1", "effect"] == "+10.0 points"


STRETCHES = curves({4: [0.5, 0.9], 64: [0.5, 0.9], 128: [0.4, 0.8]})


def test_curves_are_compared_over_each_stretch_between_two_drops():
    found = judged(**STRETCHES | {"runs": STRETCHES["runs"].assign(lr_drops="0.25 0.75")})
    each = [words.split(" averages ")[0] for words in compared(found, "C7")]
    stretches = ("1 to 1", "2 to 3", "4 to 4")
    assert each == [
        *[f"fig04, epochs {epochs}: m = {m}" for epochs in stretches for m in (4, 64)],
        "fig04, epochs 1 to 4: m = 128",
    ]


def test_runs_that_diverged_are_no_curves_where_no_epoch_is_known():
    runs = STRETCHES["runs"]
    diverged = runs.assign(status=np.where(runs["batch_size"] == 4, "finished", "diverged"))
    row = judged(STRETCHES["figures"], diverged).loc["C7"]
    assert (row["verdict"], row["comparisons"]) == ("not run", "[]")
