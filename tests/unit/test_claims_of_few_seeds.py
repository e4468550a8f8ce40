"""One seed decides next to nothing, and shares of five are coarse."""

import numpy as np
import pytest
from helpers.claims import DEAD, curve, judged, one_seed, study


def test_with_one_seed_the_border_decides_nothing_and_the_inside_does():
    at_border = one_seed({2: [0.9, 0.9, 0.9, 0.9], 64: [0.7, DEAD, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "supported"  # 4 against 1, give or take 2
    at_border = one_seed({2: [0.9, 0.9, 0.9, DEAD], 64: [0.7, 0.7, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "undecided"


@pytest.mark.parametrize("at_large", [[DEAD, 0.7], [DEAD, DEAD, 0.7]])
def test_with_one_seed_any_rate_that_trains_may_be_the_best(at_large: list):
    small = [0.9, 0.8, 0.8][: len(at_large)]
    accuracies = {2: small, 8: small, 128: at_large}
    assert judged(**study(fig01=one_seed(accuracies))).loc["C3", "verdict"] == "undecided"


@pytest.mark.parametrize("accuracy", [0.81, 0.95, 0.6])
def test_one_seed_decides_no_difference_of_accuracies(accuracy: float):
    row = judged(**study(fig01=one_seed({8: [accuracy], 16: [0.8]}))).loc["C1"]
    assert row["verdict"] == "undecided" and row["effect"] == f"{100 * (accuracy - 0.8):+.1f} points"
    assert np.isnan(row["low"]) and np.isnan(row["high"])


MOST, FEW = [0.9, 0.9, 0.9, DEAD, DEAD], [0.7, 0.7, DEAD, DEAD, DEAD]


@pytest.mark.parametrize(
    ("claim", "figures", "verdict"),
    [
        (
            "C3",
            {"fig01": curve({2: 0.9, 8: 0.85, 128: 0.8}), "fig02": curve({2: 0.9, 8: 0.85, 128: MOST})},
            "undecided",
        ),
        ("C4", {"fig01": curve({2: 0.9, 8: 0.85, 128: 0.8}), "fig02": curve({2: 0.9, 8: 0.8, 128: MOST})}, "undecided"),
        ("C6", {"sec32": curve({2: 0.765, 4: FEW, 8: DEAD, 128: DEAD})}, "undecided"),
        ("C13", {"fig07": curve({2: 0.9, 8: FEW, 16: DEAD, 128: DEAD})}, "undecided"),
        ("C19", {"fig12": curve({2: 0.9, 8: FEW, 16: DEAD, 128: DEAD})}, "not run"),
    ],
)
def test_two_coarse_shares_are_no_surer_than_an_exact_test(claim: str, figures: dict, verdict: str):
    # Five seeds that agree have p = 1 / 32 by themselves, 1 / 16 beside another that may lie outside; mid-P has halves.
    assert judged(**study(**figures)).loc[claim, "verdict"] == verdict
