"""What the paper's claims say, as effects computed from grids.

A predicate takes the thresholds and a grid for each figure that it compares, and yields parts: effects, each with its
bootstrap interval and the region that the claim puts it in. It yields nothing where the grids lack cells to compare.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.statistics import SAMPLES, nan_mean, percentile_interval, slope
from smallbatch.figures.words import counted, rate_words

VERDICTS = ("refuted", "undecided", "supported", "not run")
"""The first that any part has is the claim's."""

Thresholds = Mapping[str, float]
"""`claims` of config/config.yaml."""

_FORMATS = {
    "points": "{:+.1f} points", "rates": "{:+.1f} rates", "% of seeds": "{:.0f} % of seeds", "slope": "slope {:.2f}",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One effect, and what the claim says of it.

    told: the numbers in a sentence.
    effect: (samples), in `unit`; the first is the data's. NaN where the data cannot tell.
    at_least, at_most: the region that the claim puts it in.
    """

    told: str
    effect: np.ndarray
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = "points"

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, stretched to the data's own effect where that lies outside; NaN where one is unknown."""
        own, (low, high) = self.effect[0], percentile_interval(self.effect[1:])
        return (math.nan, math.nan) if np.isnan(own + low) else (float(np.fmin(low, own)), float(np.fmax(high, own)))

    @cached_property
    def verdict(self) -> str:
        low, high = self.interval
        if self.at_least < low and high < self.at_most:
            return "supported"
        return "refuted" if high < self.at_least or low > self.at_most else "undecided"

    @property
    def words(self) -> str:
        """The data's effect with its unit: `+1.2 points`; empty where it is NaN."""
        own = round(float(self.effect[0]), 9) + 0.0  # no -0.0
        return "" if math.isnan(own) else _FORMATS[self.unit].format(own)

    @property
    def rank(self) -> tuple[int, float]:
        """The part that decides a claim has the lowest: by verdict, then by how deep in its region the effect lies."""
        depth = min(self.effect[0] - self.at_least, self.at_most - self.effect[0])
        return VERDICTS.index(self.verdict), float(np.nan_to_num(depth))


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _sizes(grid: Grid) -> str:
    """`m = 8`, `m = 2 ... 32`."""
    ends = dict.fromkeys([grid.sizes[0], grid.sizes[-1]])
    return f"{grid.symbol} = {' ... '.join(map(str, ends))}"


def _common(first: Grid, second: Grid) -> tuple[Grid, Grid]:
    """Both, with the sizes that both have."""
    return first.having(second.sizes), second.having(first.sizes)


def _gains(first: Grid, second: Grid) -> tuple[Grid, np.ndarray]:
    """The second with the sizes that both have, and (samples, sizes): points by which its best are higher."""
    first, second = _common(first, second)
    return second, 100 * (second.best() - first.best())


def _small_and_large(t: Thresholds, grid: Grid) -> tuple[Grid, Grid]:
    return grid.split(grid.sizes <= t["small_batch"])


def _fall(grid: Grid) -> np.ndarray:
    """(samples): points by which the line through the best accuracies over log2 of the sizes falls, first to last."""
    doublings = np.log2(grid.sizes)
    return -100 * grid.slope() * (doublings[-1] - doublings[0])


def best_within(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Part]:
    """The best accuracy at sizes in low ... high is above the best at others."""
    inside, outside = grid.split((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and len(outside):
        told = f"best inside at {inside.told()}, outside at {outside.told()}"
        yield Part(told, 100 * (inside.peak() - outside.peak()), at_least=0)


def untrainable_at_the_largest(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """At the overall best rate the largest m does not train."""
    if len(grid) > 1:
        rate = grid.best_rate()
        told = f"at the best rate {_rate(grid)} {grid.seeds_told(-1, rate[0])} converged at m = {grid.sizes[-1]}"
        failed = 1 - grid.at(grid.converged, rate)[:, -1]
        yield Part(told, 100 * failed, at_least=100 * t["converged_share"], unit="% of seeds")


def degrades_then_collapses(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """Rates that train at the smallest m lose accuracy until the last m that trains, and fail at the largest."""
    if len(grid) < 2:
        return
    there = ~np.isnan(grid.accuracy[0])
    trains = grid.converged > t["converged_share"]
    really = trains & trains[0]  # a toss may let a failed cell converge, but has no accuracy for it
    unbroken = np.logical_and.accumulate(really | ~there, axis=1) & there
    last = len(grid) - 1 - unbroken[:, ::-1].argmax(axis=1)  # (samples, rates)
    at_last = np.take_along_axis(grid.accuracy, last[:, None], axis=1)[:, 0]
    lost = np.where(really[:, 0] & (last > 0), grid.accuracy[:, 0] - at_last, np.nan)
    degraded = 100 * nan_mean(lost, axis=1)
    count = int((~np.isnan(lost[0])).sum())
    told = f"from m = {grid.sizes[0]} to the last m that trains accuracy falls by {degraded[0]:.1f} points"
    told = f"{told}, over {counted(count, 'rate')}" if count else f"no rate trains beyond m = {grid.sizes[0]}"
    yield Part(told, degraded, at_least=t["margin"])

    largest = len(grid) - 1 - there[::-1].argmax(axis=0)  # (rates)
    at_largest = np.take_along_axis(grid.converged, largest[None, None], axis=1)[:, 0]
    failed = 100 * nan_mean(np.where(trains[:, 0] & (largest > 0), 1 - at_largest, np.nan), axis=1)
    told = f"of the rates that train at m = {grid.sizes[0]}, {failed[0]:.0f} % fail at the largest m"
    yield Part(told, failed, at_least=100 * t["converged_share"], unit="% of seeds")


def _widths(grid: Grid) -> np.ndarray:
    """(samples, sizes): rates that converge, a seed's as its share, among those that all sizes have results at."""
    full = ~np.isnan(grid.accuracy[0]).any(axis=0)
    return grid.converged[:, :, full].sum(axis=2) if full.any() else np.full(grid.converged.shape[:2], np.nan)


def smallest_have_widest_range(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """The widest range of converging rates among the smallest m exceeds the widest among the others."""
    small = grid.sizes <= t["smallest_batch"]
    if small.any() and not small.all():
        widths = _widths(grid)
        inside, outside = widths[:, small].max(axis=1), widths[:, ~small].max(axis=1)
        told = f"{inside[0]:.1f} rates converged at m ≤ {t['smallest_batch']}, {outside[0]:.1f} at the best larger m"
        yield Part(told, inside - outside, at_least=0, unit="rates")


def range_shrinks(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """The range of converging rates is narrower at the largest m than at the smallest, and no step of m widens it."""
    slack = t["rate_slack"]
    if len(grid) < 2:
        return
    widths = _widths(grid)
    told = "{:.1f} rates converged at m = {}, {:.1f} at m = {}".format
    shrunk = widths[:, 0] - widths[:, -1]
    yield Part(told(widths[0, 0], grid.sizes[0], widths[0, -1], grid.sizes[-1]), shrunk, at_least=slack, unit="rates")
    for here in range(len(grid) - 1):
        numbers = widths[0, here], grid.sizes[here], widths[0, here + 1], grid.sizes[here + 1]
        yield Part(told(*numbers), widths[:, here + 1] - widths[:, here], at_most=slack, unit="rates")


def _trains_up_to(
    t: Thresholds, grid: Grid, bound: int, shares: np.ndarray, at: str, rates: Sequence[int]
) -> Iterator[Part]:
    """Of each size the share of seeds on the claim's side: that converge up to the bound, that fail beyond it.

    shares: (samples, sizes), of seeds that converge at a rate. at: that rate in words. rates: its places in the data.
    """
    small = grid.sizes <= bound
    if small.any() and not small.all():
        for place, inside in enumerate(small):
            share = shares[:, place] if inside else 1 - shares[:, place]
            told = f"{at}, m = {grid.sizes[place]}: {grid.seeds_told(place, rates[place])} converged"
            yield Part(told, 100 * share, at_least=100 * t["converged_share"], unit="% of seeds")


def trains_only_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Part]:
    """Some rate trains every m up to the bound, and none any larger m."""
    shares = np.fmax.reduce(grid.converged, axis=2)
    best = np.nan_to_num(grid.converged[0], nan=-1).argmax(axis=1)
    yield from _trains_up_to(t, grid, bound, shares, "at the rate where most do", best)


def best_rate_usable_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Part]:
    """The overall best rate trains every m up to the bound, and no larger m."""
    rate = grid.best_rate()
    shares, everywhere = grid.at(grid.converged, rate), np.full(len(grid), rate[0])
    yield from _trains_up_to(t, grid, bound, shares, f"at the best rate {_rate(grid)}", everywhere)


def _rate(grid: Grid) -> str:
    return rate_words(grid.base_lrs[grid.best_rate()[0]])


def peaks_at(t: Thresholds, grid: Grid, percent: float) -> Iterator[Part]:
    """The best accuracy is about so many percent."""
    told = f"best at {grid.told()}, {percent:g} % expected"
    yield Part(told, 100 * grid.peak() - percent, at_least=-t["near"], at_most=t["near"])


def coincide_and_fall_beyond(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Part]:
    """At one rate accuracy at each m in low ... high is about their mean, and lower at each larger m."""
    inside = grid.having((grid.sizes >= low) & (grid.sizes <= high))
    if not len(inside) or len(grid.base_lrs) > 1:
        return
    mean = inside.best().mean(axis=1)
    told = "m = {} ends at {}, the mean of {} is {}, all at {}".format
    numbers = _sizes(inside), _percent(mean[0]), _rate(grid)
    if len(inside) > 1:
        for size, accuracy in zip(inside.sizes, inside.best().T, strict=True):
            about = 100 * (accuracy - mean)
            yield Part(told(size, _percent(accuracy[0]), *numbers), about, at_least=-t["same"], at_most=t["same"])
    larger = grid.having(grid.sizes > high)
    for size, accuracy in zip(larger.sizes, larger.best().T, strict=True):
        yield Part(told(size, _percent(accuracy[0]), *numbers), 100 * (mean - accuracy), at_least=t["margin"])


def improves(t: Thresholds, first: Grid, second: Grid) -> Iterator[Part]:
    """The second is better at half of the sizes or more: the median of its gains is."""
    second, gains = _gains(first, second)
    if len(second):
        lowest, highest = gains[0].argmin(), gains[0].argmax()
        told = (
            f"median gain {np.median(gains[0]):+.1f} points over {_sizes(second)}, from {gains[0, lowest]:+.1f} at "
            f"m = {second.sizes[lowest]} to {gains[0, highest]:+.1f} at m = {second.sizes[highest]}"
        )
        yield Part(told, np.median(gains, axis=1), at_least=t["margin"])


def smallest_suffers(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Part]:
    """The smallest m, where it is below low, is worse than the best in low ... high."""
    inside = grid.having((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and grid.sizes[0] < low:
        smallest = grid.best()[:, 0]
        told = f"m = {grid.sizes[0]} reaches {_percent(smallest[0])}, {inside.told()} is the best in {low} ... {high}"
        yield Part(told, 100 * (inside.peak() - smallest), at_least=t["margin"])


def same_peak(t: Thresholds, first: Grid, second: Grid) -> Iterator[Part]:
    """The best accuracies of both are about the same."""
    told = f"best at {second.told()}, in {first.where} at {first.told()}"
    yield Part(told, 100 * (second.peak() - first.peak()), at_least=-t["same"], at_most=t["same"])


def falls_from(t: Thresholds, grid: Grid, low: int = 0) -> Iterator[Part]:
    """The line fitted to the best accuracies over log2 of the sizes from low up falls from its first to its last."""
    grid = grid.having(grid.sizes >= low)
    if len(grid) > 1:
        best = grid.best()
        told = f"from {_percent(best[0, 0])} at m = {grid.sizes[0]} to {_percent(best[0, -1])} at m = {grid.sizes[-1]}"
        yield Part(told, _fall(grid), at_least=t["margin"])


def falls_more(t: Thresholds, first: Grid, second: Grid, low: int) -> Iterator[Part]:
    """The fall as in `falls_from` is larger in the second."""
    first, second = _common(first.having(first.sizes >= low), second.having(second.sizes >= low))
    if len(second) > 1:
        less, more = _fall(first), _fall(second)
        told = f"{_sizes(second)} lose {more[0]:.1f} points, {less[0]:.1f} in {first.where}"
        yield Part(told, more - less, at_least=t["margin"])


def good_out_to(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Part]:
    """Each m in low ... high comes near the best accuracy of all."""
    peak, best = grid.peak(), grid.best()
    for place in np.flatnonzero((grid.sizes >= low) & (grid.sizes <= high)):
        told = f"m = {grid.sizes[place]} reaches {_percent(best[0, place])}, {grid.told()} is the best of all"
        yield Part(told, 100 * (peak - best[:, place]), at_most=t["near"])


def helps_large_most(t: Thresholds, first: Grid, second: Grid) -> Iterator[Part]:
    """The second is better on average over m, and gains more on average over large m than over small."""
    second, gains = _gains(first, second)
    if len(second):
        yield _mean_gain(t, first, second, gains)
        yield from _large_gain_more(t, second, gains)


def _mean_gain(t: Thresholds, first: Grid, second: Grid, gains: np.ndarray) -> Part:
    told = f"{gains[0].mean():+.1f} points on average over {_sizes(second)} against {first.where}"
    return Part(told, gains.mean(axis=1), at_least=t["margin"])


def _large_gain_more(t: Thresholds, grid: Grid, gains: np.ndarray, where: str = "") -> Iterator[Part]:
    """gains: (samples, sizes), NaN where the data lack a cell."""
    small = grid.sizes <= t["small_batch"]
    if small.any() and not small.all():
        at_small, at_large = nan_mean(gains[:, small], axis=1), nan_mean(gains[:, ~small], axis=1)
        told = f"{where}{at_large[0]:+.1f} points at m > {t['small_batch']}, {at_small[0]:+.1f} at smaller m"
        yield Part(told, at_large - at_small, at_least=t["margin"])


def large_stay_below(t: Thresholds, grid: Grid, other: Grid | None = None) -> Iterator[Part]:
    """The mean over large m of the best accuracies is below that over small m, be it of a grid before it."""
    small, _ = _small_and_large(t, grid)
    _, large = _small_and_large(t, grid if other is None else other)
    if len(small) and len(large):
        at_small, at_large = small.best().mean(axis=1), large.best().mean(axis=1)
        of = "" if other is None else f" of {grid.where}"
        told = f"{_sizes(large)} average {_percent(at_large[0])}, {_sizes(small)}{of} {_percent(at_small[0])}"
        yield Part(told, 100 * (at_small - at_large), at_least=t["margin"])


def large_degrade_most_at_best_rate(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """At the overall best rate large m fall further below small m than at any other rate."""
    small, large = _small_and_large(t, grid)
    if len(small) and len(large) and len(grid.base_lrs) > 1:
        gaps = 100 * (nan_mean(small.accuracy, axis=1) - nan_mean(large.accuracy, axis=1))
        rate = grid.best_rate()[:, None]
        here = np.take_along_axis(gaps, rate, axis=1)[:, 0]
        others = np.where(np.arange(gaps.shape[1]) == rate, np.nan, gaps)
        elsewhere = np.fmax.reduce(others, axis=1)
        told = f"large m lie {here[0]:.1f} points below small at the best rate {_rate(grid)}, at others"
        told = f"{told} up to {elsewhere[0]:.1f}"
        yield Part(told, here - elsewhere, at_least=0)


def small_are_stable(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """Small m train at every rate at which any m trains."""
    small, large = _small_and_large(t, grid)
    if len(small) and len(large):
        in_range = np.fmax.reduce(grid.converged[0], axis=0) > t["converged_share"]
        for size, rate in np.argwhere(in_range & (small.seeds > 0)):
            cell = f"m = {small.sizes[size]} at {rate_words(small.base_lrs[rate])}"
            told = f"{cell}: {small.seeds_told(size, rate)} converged"
            share = 100 * small.converged[:, size, rate]
            yield Part(told, share, at_least=100 * t["converged_share"], unit="% of seeds")


def best_below_whole(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """The best accuracy at b < m is above that at b = m, for one m."""
    below, whole = grid.split(grid.sizes < grid.setting["batch_size"])
    if len(below) and len(whole):
        told = f"best below m at {below.told()}, the whole batch has {_percent(whole.peak()[0])}"
        yield Part(told, 100 * (below.peak() - whole.peak()), at_least=0)


def best_at_two_without_norm(t: Thresholds, grid: Grid) -> Iterator[Part]:
    """Where nothing is normalised, m = 2 is better than any larger m."""
    if grid.setting["norm"] == "none":
        yield from best_within(t, grid, 2, 2)


def longer_helps(t: Thresholds, short: Grid, long: Grid) -> Iterator[Part]:
    """The longer training is better on average over m; at the overall best rate of the shorter one it gains more at
    large m than at small; and large m stay below small m."""
    yield from large_stay_below(t, long)
    short, long = _common(short, long)
    if len(long):
        yield _mean_gain(t, short, long, 100 * (long.best() - short.best()))
        _, of_short, of_long = np.intersect1d(short.base_lrs, long.base_lrs, return_indices=True)
        gain = np.full((*short.accuracy.shape[:2], len(short.base_lrs)), np.nan)
        gain[:, :, of_short] = 100 * (long.accuracy[:, :, of_long] - short.accuracy[:, :, of_short])
        at_best = short.at(gain, short.best_rate())
        yield from _large_gain_more(t, long, at_best, f"at the best rate of {short.where}, {_rate(short)}: ")


def grows_linearly(t: Thresholds, variance: pd.DataFrame, generator: np.random.Generator) -> Iterator[Part]:
    """At each epoch measured, the trace of the update's covariance has slope one over m, on logarithmic axes.

    The slope is the mean over runs; a sample draws runs, and the points of each run, with replacement.

    Args:
        t: thresholds.
        variance: run, epoch, batch_size, trace; a row a measurement.
        generator: where the draws come from.
    """
    numbers = ["epoch", "batch_size", "trace"]
    points = variance.reindex(columns=["run", *numbers])
    points[numbers] = points[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    points = points[np.isfinite(points["trace"]) & (points["trace"] > 0)].dropna()
    for epoch, here in points.groupby("epoch"):
        lines = [line for _, line in here.groupby("run") if line["batch_size"].nunique() > 2]
        if lines:
            slopes = np.stack([_sampled_slope(line, generator) for line in lines], axis=1)
            times = _times_drawn(len(lines), generator) * ~np.isnan(slopes)
            total = times.sum(axis=1)
            mean = (times * np.nan_to_num(slopes)).sum(axis=1) / np.where(total, total, np.nan)
            ends = f"m = {here['batch_size'].min():.0f} ... {here['batch_size'].max():.0f}"
            told = f"epoch {epoch:.0f}: slope {mean[0]:.2f} over {ends}, {counted(len(lines), 'run')}"
            tolerance = t["slope_tolerance"]
            yield Part(told, mean, at_least=1 - tolerance, at_most=1 + tolerance, unit="slope")


def _sampled_slope(line: pd.DataFrame, generator: np.random.Generator) -> np.ndarray:
    x, y = (np.log2(line[name].to_numpy(dtype=float)) for name in ("batch_size", "trace"))
    return slope(x, y, _times_drawn(len(line), generator))


def _times_drawn(count: int, generator: np.random.Generator) -> np.ndarray:
    """(samples, count): how often each is drawn; in the data, once."""
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=SAMPLES)
    return np.concatenate([np.ones((1, count)), drawn])
