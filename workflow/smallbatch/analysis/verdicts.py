"""From comparisons to the verdict of a claim, which is wrong in at most 5 % of studies however many comparisons it has.

A claim is true where all its effects lie in their regions. It is supported where a one-sided test at 5 % says so of
each: a false comparison passes in 5 % of studies, and an intersection of tests needs no correction (Berger 1982). It is
refuted where one effect lies outside further than chance takes any of them: by the least p-value of all comparisons in
the same samples (Westfall & Young 1993, single-step min-P), so that a true claim is refuted in 5 % of studies, and not
each of its comparisons. Those that look well inside refute nothing and are left out; what is left out by its p-value is
made up for by dividing the others by the bound (Zhao, Small & Su 2019).

It is decided in two scenarios, a half of the samples each: in one the best of several cells is alone, in the other it
ties with all that are near (`noise.best_accuracy_samples`); of two bests that are compared, one does so in the first
scenario and the other in the second (`Grid.peak_difference`). A study cannot tell which is true, so a verdict has to
hold in both. Where no best is compared, the two say the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from smallbatch.analysis.noise import NEAR
from smallbatch.analysis.statistics import percentile_interval
from smallbatch.analysis.words import counted

VERDICTS = ("refuted", "undecided", "supported", "not run")
"""The first that any comparison has is the claim's."""

LEVEL = 0.05
"""How often, at most, a false claim is supported or a true one refuted."""

TESTED = LEVEL - float(ndtr(-NEAR))
"""The level of each test: less the chance that a cell as good as the best looks worse by more than `NEAR` and is not
counted among those that may be the best (Berger & Boos, JASA 1994, of tests that do not know all values)."""

DISCARDED = 0.9
"""The p-value, of an effect in its region looking so far out, above which it is left out of those that refute."""

MAX_SEEDS = 100
"""More seeds than this are not asked for: the effect lies at the border."""

_FORMATS = {
    "points": "{:+.1f} points", "rates": "{:+.1f} rates", "% of seeds": "{:.0f} % of seeds", "slope": "slope {:.2f}",
}  # fmt: skip


UNITS = tuple(_FORMATS)
"""Of effects."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One effect, and what the claim says of it.

    sentence: the numbers in a sentence.
    effect: (samples), in `unit`; the first is the data's. NaN where the data cannot tell.
    at_least, at_most: the region that the claim puts it in.
    seeds: of each cell that is compared, the fewest; 0 where the effect is not one of seeds.
    """

    sentence: str
    effect: np.ndarray
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = "points"
    seeds: int = 0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, stretched to the data's own effect where bias moved it away; NaN where one is unknown."""
        observed, (low, high) = self.effect[0], percentile_interval(self.effect[1:])
        if math.isnan(observed + low):
            return math.nan, math.nan
        return float(min(low, observed)), float(max(high, observed))

    def scenarios(self) -> tuple["Comparison", "Comparison"]:
        """The comparison with the samples of either scenario alone."""
        one, other = (np.concatenate([self.effect[:1], half]) for half in np.split(self.effect[1:], 2))
        return replace(self, effect=one), replace(self, effect=other)

    @cached_property
    def p_outside(self) -> float:
        """The p-value of lying outside the region: small supports the claim. 1 where nothing is known."""
        samples = self._known
        inside = self.depth > 0 and len(samples)
        return float(max((samples <= self.at_least).mean(), (samples >= self.at_most).mean())) if inside else 1.0

    @cached_property
    def p_inside(self) -> float:
        """The p-value of lying in the region, were it the only comparison: small refutes. 1 where nothing is known."""
        samples = self._known
        known = len(samples) and not math.isnan(self.depth)
        return float(min((samples >= self.at_least).mean(), (samples <= self.at_most).mean())) if known else 1.0

    @property
    def _known(self) -> np.ndarray:
        known: np.ndarray = self.effect[1:][~np.isnan(self.effect[1:])]
        return known

    @property
    def words(self) -> str:
        """The data's effect with its unit: `+1.2 points`; empty where it is NaN."""
        return effect_words(float(self.effect[0]), self.unit)

    @property
    def depth(self) -> float:
        """How deep in its region the data's effect lies; below zero outside, NaN where it is unknown."""
        return float(min(self.effect[0] - self.at_least, self.at_most - self.effect[0]))

    @cached_property
    def seeds_to_decide(self) -> int | None:
        """About how many seeds each cell needs until a test clears the border, as the spread goes by their root.

        None where that is unknown, or more than `MAX_SEEDS`.
        """
        if not self.seeds or math.isnan(self.depth + self.interval[0]):
            return None
        observed = float(self.effect[0])
        low, high = np.quantile(self._known, [TESTED, 1 - TESTED])
        lower_is_near = abs(observed - self.at_least) <= abs(self.at_most - observed)
        half = observed - low if lower_is_near == (self.depth > 0) else high - observed
        needed = self.seeds * (half / self.depth) ** 2 if self.depth else math.inf
        return math.ceil(needed) if needed <= MAX_SEEDS else None


def effect_words(effect: float, unit: str) -> str:
    """`+1.2 points`; empty for NaN."""
    return "" if math.isnan(effect) else _FORMATS[unit].format(round(effect, 9) + 0.0)  # no -0.0


def what_would_decide(comparisons: Sequence[Comparison], verdicts: Sequence[str]) -> str:
    """What an undecided claim lacks, in words, by the comparisons that are."""
    undecided = [
        comparison for comparison, verdict in zip(comparisons, verdicts, strict=True) if verdict == "undecided"
    ]
    if any(math.isnan(comparison.effect[0]) for comparison in undecided):
        return "rates at which something converges"
    if any(comparison.seeds == 1 for comparison in undecided):
        return "a second seed: one has no spread"
    needed = [seeds for comparison in undecided if (seeds := comparison.seeds_to_decide) is not None]
    if len(needed) < len(undecided):
        return f"more than {MAX_SEEDS} seeds: an effect lies at its border"
    more = max(max(seeds - comparison.seeds, 1) for seeds, comparison in zip(needed, undecided, strict=True))
    return f"about {counted(more, 'more seed')}, by the widths of the intervals"


def decide(comparisons: Sequence[Comparison]) -> list[str]:
    """The verdict on each, where "refuted" holds for all of them at once; in both scenarios, or it is undecided."""
    scenarios = zip(*(comparison.scenarios() for comparison in comparisons), strict=True)
    decided = [_decide_in_one(scenario) for scenario in scenarios]
    return [one if one == other else "undecided" for one, other in zip(*decided, strict=True)] if comparisons else []


def _decide_in_one(comparisons: Sequence[Comparison]) -> list[str]:
    suspects = [comparison for comparison in comparisons if comparison.p_inside <= DISCARDED]
    least = np.min([_p_values(comparison) for comparison in suspects], axis=0) if suspects else np.ones(1)

    def verdict(comparison: Comparison) -> str:
        if comparison.p_outside <= TESTED:
            return "supported"
        adjusted = (least <= comparison.p_inside).mean() if comparison in suspects else 1.0
        return "refuted" if comparison.depth < 0 and adjusted <= TESTED * DISCARDED else "undecided"

    return [verdict(comparison) for comparison in comparisons]


def _p_values(comparison: Comparison) -> np.ndarray:
    """(samples): the p-value that `p_inside` would be, were the region's nearer border at each sample."""
    samples = (
        comparison.effect[1:]
        if comparison.effect[0] - comparison.at_least < comparison.at_most - comparison.effect[0]
        else -comparison.effect[1:]
    )
    known = np.sort(samples[~np.isnan(samples)])
    below = np.searchsorted(known, samples, side="left")
    return np.where(np.isnan(samples), 1.0, 1 - below / len(known))
