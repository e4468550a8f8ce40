"""A verdict is seldom wrong: comparisons decided by hand, and a short form of benchmarks/verdicts.py."""

import math

import numpy as np
import pytest
from scipy.stats import norm

import power
import verdicts as harness
from smallbatch.analysis.statistics import shuffled_halves
from smallbatch.analysis.verdicts import Comparison, decide, effect_words, what_would_decide

SAMPLES = 4000
QUANTILES = norm.ppf((np.arange(SAMPLES) + 0.5) / SAMPLES)


def comparison(effect: float, spread: float = 1.0, noise: int = 0, **settings) -> Comparison:
    """An effect with samples around it that are normal to the last; comparisons of one noise move together."""
    samples = effect + spread * shuffled_halves(QUANTILES, np.random.default_rng(noise))
    return Comparison("told", np.concatenate([[effect], samples]), **settings)


@pytest.mark.parametrize(
    ("effect", "unit", "words"),
    [
        (1.25, "points", "+1.2 points"), (-1e-12, "points", "+0.0 points"), (-2, "rates", "-2.0 rates"),
        (59.6, "% of seeds", "60 % of seeds"), (0.9805, "slope", "slope 0.98"), (np.nan, "points", ""),
    ],
)  # fmt: skip
def test_effects_in_words(effect: float, unit: str, words: str):
    assert effect_words(effect, unit) == words


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [(1.73, "supported"), (1.68, "undecided"), (0.0, "undecided"), (-1.73, "undecided"), (-1.79, "refuted")],
)
def test_a_part_alone_is_decided_by_one_side_of_its_samples(effect: float, verdict: str):
    # Beyond 2.5 lie 0.62 % of a standard normal: 5 - 0.62 = 4.38 % beyond 1.708, and 0.9 times that, what discarding
    # leaves to refutations, 3.94 %, beyond 1.758.
    assert decide([comparison(effect, at_least=0)]) == [verdict]
    assert decide([comparison(-effect, at_most=0)]) == [verdict]
    assert decide([comparison(2 + 10 * effect, spread=10, at_least=2)]) == [verdict]


def test_a_region_of_two_ends_needs_both():
    assert decide([comparison(0, spread=0.5, at_least=-1, at_most=1)]) == ["supported"]
    assert decide([comparison(0, spread=0.7, at_least=-1, at_most=1)]) == ["undecided"]
    # Both at once: of a standard normal 3.94 % lie beyond 2.06 on either side.
    for beyond, verdict in ((1.06, "refuted"), (1.0, "undecided")):
        effects = (1 + beyond, -1 - beyond)
        assert decide([comparison(effect, spread=0.5, at_least=-1, at_most=1) for effect in effects]) == [verdict] * 2


def test_a_claim_of_many_parts_is_refuted_by_what_chance_takes_none_of_them_to():
    # The largest of ten independent normals exceeds 2.65 in 3.94 % of samples: 0.9606^(1/10) = 0.9960.
    others = [comparison(0, noise=noise, at_least=0) for noise in range(1, 10)]
    for effect, verdict in ((-2.4, "undecided"), (-2.85, "refuted")):
        assert decide([comparison(effect, at_least=0), *others])[0] == verdict
        assert decide([*others, comparison(10 * effect, spread=10, at_least=0)])[-1] == verdict
    together = [comparison(0, at_least=0) for _ in range(9)]
    assert decide([comparison(-1.79, at_least=0), *together])[0] == "refuted"


@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize(("low", "high"), [(5, 9), (-0.01, 0.01)])
def test_of_a_region_the_nearer_end_of_the_data_decides_what_moves_together(low: float, high: float, lowest: bool):
    # Two that move together are as likely to be far out as one; were either counted at its other end, twice as likely.
    noise = shuffled_halves(QUANTILES, np.random.default_rng(0))
    place = noise.argmax() if lowest else noise.argmin()
    noise[[0, place]] = noise[[place, 0]]  # the first sample lies on the other side
    outside, one_sided = (low - 1.81, {"at_least": 0}) if lowest else (high + 1.81, {"at_most": 0})
    comparisons = [
        Comparison("told", np.append(outside, outside + noise), low, high),
        Comparison("told", np.append(0, noise), **one_sided),
    ]
    assert decide(comparisons) == ["refuted", "undecided"]


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("side", [1, -1])
def test_a_verdict_has_to_hold_in_either_half_of_the_samples(turn: int, side: int):
    near, far = side * (1.5 + QUANTILES[::2]), side * (3 + QUANTILES[::2])  # beyond 0 lie 6.7 and 0.1 %; of both 3.4
    verdict = "supported" if side == 1 else "refuted"
    for halves, expected in (((near, far)[::turn], "undecided"), ((far, far), verdict)):
        assert decide([Comparison("told", np.concatenate([[3 * side], *halves]), at_least=0)]) == [expected]


def test_an_effect_of_the_data_that_lies_in_its_region_refutes_nothing():
    for effect, verdict in ((0.5, "undecided"), (-0.5, "refuted")):
        assert decide([Comparison("told", np.append(effect, QUANTILES - 3), at_least=0)]) == [verdict]


def test_samples_that_are_unknown_are_not_far_out():
    some = comparison(-2.5, at_least=0)
    some.effect[1::10] = np.nan
    assert decide([some]) == ["refuted"]


def test_parts_that_look_well_inside_make_no_refutation_harder():
    # A comparison is left out where 90 % of its samples lie in the region: beyond 1.28.
    for effect, verdict in ((1.35, "refuted"), (1.2, "undecided")):
        others = [comparison(effect, noise=noise, at_least=0) for noise in range(1, 10)]
        assert decide([comparison(-2.1, at_least=0), *others])[0] == verdict


def test_what_is_unknown_decides_nothing():
    nothing = np.full(1 + SAMPLES, np.nan)
    no_spread = np.concatenate([[5.0], nothing[1:]])
    comparisons = [
        Comparison("told", nothing, at_least=0),
        Comparison("told", no_spread, at_least=0),
        Comparison("told", no_spread, at_most=0),
    ]
    assert decide(comparisons) == ["undecided"] * 3
    assert all(math.isnan(end) for comparison in comparisons for end in comparison.interval)
    assert decide([*comparisons, comparison(-3, at_least=0), comparison(3, at_least=0)])[3:] == ["refuted", "supported"]


def test_without_noise_a_tie_alone_is_undecided():
    effects = [Comparison("told", np.full(1 + SAMPLES, effect), at_least=0) for effect in (-0.1, 0.0, 0.1)]
    assert decide(effects) == ["refuted", "undecided", "supported"]
    assert decide([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("comparisons", [1, 10])
def test_a_true_claim_at_its_border_is_refuted_in_few_studies(comparisons: int):
    generator = np.random.default_rng(0)
    noise = [shuffled_halves(QUANTILES, generator) for _ in range(comparisons)]

    def refuted(effects: np.ndarray) -> bool:
        samples = [np.append(own, own + error) for own, error in zip(effects, noise, strict=True)]
        return "refuted" in decide([Comparison("told", drawn, at_least=0) for drawn in samples])

    share = np.mean([refuted(effects) for effects in generator.standard_normal((1000, comparisons))])
    assert 0.027 < share < 0.057  # 3.9 % for one comparison, 4.4 % for many, give or take two standard errors


def test_how_many_seeds_would_decide():
    # A test of one side spans 1.708, with 5 seeds: 1 clears it with 5 * 1.708^2 = 14.6 of them, on whatever side.
    own = comparison(1, at_least=0, seeds=5)
    assert own.seeds_to_decide == comparison(-1, at_least=0, seeds=5).seeds_to_decide == 15
    assert comparison(1, at_most=2, seeds=5).seeds_to_decide == comparison(3, at_most=2, seeds=5).seeds_to_decide == 15
    assert (
        comparison(0.1, at_least=0, seeds=5).seeds_to_decide
        is comparison(0, at_least=0, seeds=5).seeds_to_decide
        is None
    )
    for effect in (1.69, 1.72):  # 5.1 and 4.93 seeds
        near = comparison(effect, at_least=0, seeds=5)
        assert what_would_decide([near], ["undecided"]) == "about 1 more seed, by the widths of the intervals"
    clear = comparison(3, at_least=0, seeds=5)
    assert (
        what_would_decide([own, clear], decide([own, clear])) == "about 10 more seeds, by the widths of the intervals"
    )


@pytest.mark.parametrize(
    ("undecided", "words"),
    [
        (comparison(0.01, at_least=0, seeds=5), "more than 100 seeds: an effect lies at its border"),
        (comparison(1, at_least=0, seeds=1), "a second seed: one has no spread"),
        (Comparison("told", np.array([1.0, np.nan, np.nan]), at_least=0, seeds=1), "a second seed: one has no spread"),
        (Comparison("told", np.full(1 + SAMPLES, np.nan)), "rates at which something converges"),
    ],
)
def test_what_an_undecided_claim_lacks(undecided: Comparison, words: str):
    assert what_would_decide([comparison(1, at_least=0, seeds=5), undecided], ["undecided", "undecided"]) == words


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["C2", "C4", "C21", "C24", "C26"])
def test_studies_of_known_truth_are_seldom_judged_wrongly(claim: str):
    border, true = (harness.verdicts(claim, (depth, depth), 3, 15) for depth in (0, 0.1))
    assert border.max() <= 20 and true["refuted"] <= 20  # 3 of 15


@pytest.mark.parametrize("claim", ["C2", "C4", "C21", "C26"])
def test_what_is_plain_is_decided(claim: str):
    clear = harness.CLEAR[harness.BUILDS[claim][1]]
    assert harness.verdicts(claim, (clear, clear), 5, 5)["supported"] >= 80
    assert harness.verdicts(claim, (-clear, clear), 5, 5)["refuted"] >= 80


def test_the_most_power_of_one_cell_against_one_is_that_of_their_difference():
    # Of a difference of two cells, whose standard error is the root of 2, 5 % lie beyond 1.645 of them.
    expected = norm.cdf(2.5 / math.sqrt(2) - 1.645)
    for most in (power.bound, power.cell_by_cell):
        assert most([power.Bests(np.array([2.5]), np.zeros(1))], np.random.default_rng(0)) == pytest.approx(
            expected, abs=0.015
        )


def test_power_is_lost_to_cells_that_may_be_the_best_and_to_every_further_comparison():
    def most(winners: int, others: int, times: int = 1) -> float:
        bests = power.Bests(np.full(winners, 2.5), np.zeros(others))
        return power.bound([bests] * times, np.random.default_rng(0))

    assert most(1, 5) < most(1, 1) - 0.1 and most(1, 1, times=3) < most(1, 1) - 0.1
    # With two that tie against one the mean of the two is the best test: a standard error of the root of 1.5.
    assert most(2, 1) == pytest.approx(norm.cdf(2.5 / math.sqrt(1.5) - 1.645), abs=0.015)


def test_the_power_of_a_claim_is_of_its_comparisons_of_bests():
    build, step = harness.BUILDS["C21"]
    found = [*power.comparisons("C21", build(*harness.cases(step)["true"]))]
    # Of two figures SGD batches of 4, 8, 32 and 128 with so many BN batches: one or two of them 4 or 8.
    assert [tuple(map(len, bests)) for bests in found] == 2 * [(1, 1), (2, 1), (2, 3), (2, 5)]
    assert found[0].winners - found[0].others == pytest.approx(0.3 / math.hypot(0.3 / math.sqrt(5), 0.1162), rel=1e-3)


@pytest.mark.parametrize("claim", harness.ONE_TIES)
def test_studies_in_which_one_size_ties_with_all_of_the_other_side(claim: str):
    for studied, lone in zip(harness.ONE_TIES[claim], ("others", "winners"), strict=False):
        first, *further = power.comparisons(claim, studied)
        top = max(first.winners)
        assert top == max(first.others) and (getattr(first, lone) == top).sum() == 1
        many = first.winners if lone == "others" else first.others
        assert (many == top).all() and all(min(bests.winners) > max(bests.others) for bests in further)
