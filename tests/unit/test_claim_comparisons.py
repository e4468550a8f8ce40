"""What each claim compares, in words and numbers."""

import json

import pytest
from helpers.claim_cases import CASES
from helpers.claims import THRESHOLDS, judged


def region(unit: str, at_least: float | None = None, at_most: float | None = None) -> dict:
    return {"at_least": at_least, "at_most": at_most, "unit": unit}


ABOVE_0 = region("points", at_least=0)
ABOVE_MARGIN = region("points", at_least=THRESHOLDS["margin"])
SAME = region("points", -THRESHOLDS["same"], THRESHOLDS["same"])
NEAR = region("points", -THRESHOLDS["near"], THRESHOLDS["near"])
NOT_FAR_BELOW = region("points", at_most=THRESHOLDS["near"])
MORE_RATES = region("rates", at_least=0)
MAX_SEEDS = region("% of seeds", at_least=100 * THRESHOLDS["converged_share"])
SLOPE_1 = region("slope", 1 - THRESHOLDS["slope_tolerance"], 1 + THRESHOLDS["slope_tolerance"])
COMPARISONS: dict[str, list[tuple[str, float, dict]]] = {
    "C1": [("fig01: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 16 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C2": [
        ("fig02: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 8 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
        ("fig03: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 8 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
    ],
    "C3": [("fig01: at the best rate 2⁻⁸ 0 of 5 seeds converged at m = 128", 100, MAX_SEEDS)],
    "C4": [
        (
            "fig01: from m = 2 to the last m at which all seeds train accuracy falls by 10.0 points, over 1 rate",
            10, ABOVE_MARGIN,
        ),
        ("fig01: of the rates that train at m = 2, 100 % fail at the largest m", 100, MAX_SEEDS),
    ],
    "C5": [("fig02: 3.0 rates converged on average over m ≤ 8, 1.0 at m = 64", 2, MORE_RATES)],
    "C6": [
        ("sec32: at the rate where most do, m = 4: 5 of 5 seeds converged", 100, MAX_SEEDS),
        ("sec32: at the rate where most do, m = 8: 5 of 5 seeds converged", 100, MAX_SEEDS),
        ("sec32: at the rate where most do, m = 128: 0 of 5 seeds converged", 100, MAX_SEEDS),
        ("sec32: best at m = 4 at 2⁻⁸ (76.5 %), 76 % expected", 0.5, NEAR),
    ],
    "C7": [
        ("fig04, epochs 1 to 2: m = 4 averages 50.0 %, all of m = 4 ... 64 50.2 %", -0.25, SAME),
        ("fig04, epochs 1 to 2: m = 64 averages 50.5 %, all of m = 4 ... 64 50.2 %", 0.25, SAME),
        ("fig04, epochs 3 to 4: m = 4 averages 90.0 %, all of m = 4 ... 64 90.3 %", -0.25, SAME),
        ("fig04, epochs 3 to 4: m = 64 averages 90.5 %, all of m = 4 ... 64 90.3 %", 0.25, SAME),
        ("fig04, epochs 1 to 4: m = 128 averages 60.0 %, m = 4 ... 64 70.2 %", 10.25, ABOVE_MARGIN),
    ],
    "C8": [
        (
            "fig05: median gain +5.0 points over m = 2 ... 32, from -10.0 at m = 2 to +5.0 at m = 8",
            5, ABOVE_MARGIN,
        ),
    ],
    "C9": [
        ("fig05: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (85.0 %)", 5, ABOVE_0),
        ("fig05: m = 2 reaches 80.0 %, m = 8 at 2⁻⁸ (90.0 %) is the best in 8 ... 64", 10, ABOVE_MARGIN),
    ],
    "C10": [("fig06: best inside at m = 32 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C11": [("fig06: best at m = 32 at 2⁻⁸ (85.5 %), in fig05 at m = 8 at 2⁻⁸ (85.0 %)", 0.5, SAME)],
    "C12": [
        ("fig08: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 2 at 2⁻⁸ (85.0 %)", 5, ABOVE_0),
        ("fig08: from 90.0 % at m = 8 to 70.0 % at m = 512", 20, ABOVE_MARGIN),
    ],
    "C13": [
        (f"{figure}: at the best rate 2⁻⁸, m = {m}: {count} of 5 seeds converged", 100, MAX_SEEDS)
        for figure, counts in (("fig08", (5, 5, 0)), ("fig09", (5, 0, 0)))
        for m, count in zip((2, 16, 128), counts, strict=True)
    ],
    "C14": [
        ("fig11: +2.5 points on average over m = 8 ... 256 against fig09", 2.5, ABOVE_MARGIN),
        ("fig11: +5.0 points at m > 32, +0.0 at smaller m", 5, ABOVE_MARGIN),
    ],
    "C15": [
        ("fig10: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (89.0 %)", 1, ABOVE_0),
        ("fig10: m = 128 reaches 89.0 %, m = 8 90.0 %", 1, NOT_FAR_BELOW),
    ],
    "C16": [
        ("fig11: best inside at m = 16 at 2⁻⁸ (70.0 %), outside at m = 64 at 2⁻⁸ (60.0 %)", 10, ABOVE_0),
        ("fig11: m = 16 ... 64 lose 10.0 points, 2.0 in fig10", 8, ABOVE_MARGIN),
    ],
    "C17": [
        ("fig10: m = 64 ... 256 average 80.0 %, m = 8 ... 32 85.0 %", 5, ABOVE_MARGIN),
        ("fig10: m = 64 ... 256 average 80.0 %, m = 8 ... 32 of fig08 85.0 %", 5, ABOVE_MARGIN),
    ],
    "C18": [("fig12: best inside at m = 64 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C19": [
        ("fig12: large m lie 20.0 points below small at the best rate 2⁻⁷, 1.0 at 2⁻⁸", 19, ABOVE_0),
        ("fig12: m = 8 at 2⁻⁸: 5 of 5 seeds converged", 100, MAX_SEEDS),
        ("fig12: m = 8 at 2⁻⁷: 5 of 5 seeds converged", 100, MAX_SEEDS),
    ],
    "C20": [
        ("fig13, b = 2: from 80.0 % at m = 8 to 70.0 % at m = 64", 10, ABOVE_MARGIN),
        ("fig13, b = 4: from 80.0 % at m = 8 to 79.0 % at m = 64", 1, ABOVE_MARGIN),
    ],
    "C21": [
        ("fig13b, m = 64: best inside at b = 8 at 2⁻⁸ (80.0 %), outside at b = 64 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
        ("fig13b, m = 64: best below m at b = 8 at 2⁻⁸ (80.0 %), the whole batch has 70.0 %", 10, ABOVE_0),
    ],
    "C22": [
        ("fig14, m = 64: best inside at b = 64 at 2⁻⁸ (80.0 %), outside at b = 8 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
        ("fig14, m = 256: best inside at b = 32 at 2⁻⁸ (80.0 %), outside at b = 128 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
    ],
    "C23": [
        ("fig15: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
        ("fig15: from 90.0 % at m = 2 to 85.0 % at m = 32", 5, ABOVE_0),
    ],
    # Widths 3, 2, 1 over log2 m = 1, 3, 7, from their mean -8/3, -2/3, 10/3: slope -6 / (168 / 9), times -6.
    "C24": [("fig16: 3.0 rates converged at m = 2, 1.0 at m = 128", 36 * 9 / 168, MORE_RATES)],
    "C25": [
        ("fig08: +3.0 points on average over m = 8 ... 64 against fig17", 3, ABOVE_MARGIN),
        ("fig08: at the best rate of fig17, 2⁻⁸: +5.0 points at m > 32, +1.0 at smaller m", 4, ABOVE_MARGIN),
        ("fig08: m = 64 average 75.0 %, m = 8 86.0 %", 11, ABOVE_MARGIN),
    ],
    "C26": [("made, epoch 0: slope 1.00 over m = 2 ... 8, 2 seeds", 1, SLOPE_1)],
}  # fmt: skip
"""Of each claim's supported case: what is compared, in words, the effect, and where the claim puts it."""


@pytest.mark.parametrize("claim", CASES)
def test_the_comparisons_of_each_claim(claim: str):
    row = judged(**CASES[claim]["supported"]).loc[claim]
    found = json.loads(row["comparisons"])
    assert [part["comparison"] for part in found] == [words for words, *_ in COMPARISONS[claim]]
    for part, (_, effect, claimed) in zip(found, COMPARISONS[claim], strict=True):
        assert part["effect"] == pytest.approx(effect, abs=0.002)
        assert {key: part[key] for key in claimed} == pytest.approx(claimed)
        assert part["verdict"] == "supported" and part["low"] <= part["effect"] <= part["high"]
        assert part["seeds"] == (2 if claim == "C26" else 5)
