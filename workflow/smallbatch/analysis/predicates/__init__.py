"""What the paper's claims say, as effects computed from grids.

A predicate takes the thresholds and a grid for each figure that it compares, and yields comparisons: effects, each with
its samples and the region that the claim puts it in. It yields nothing where the grids lack cells to compare, and
nothing on large m where a study stops before them: that nothing has failed by m = 32 says nothing of m = 2048.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.statistics import dealt, nan_mean, slope
from smallbatch.analysis.update_variance import mean_samples, slopes
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import counted, rate_words

Thresholds = Mapping[str, float]
"""`claims` of config/config.yaml."""


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


def _fall(grid: Grid, slopes: np.ndarray) -> np.ndarray:
    """(samples): by how much lines over log2 of the sizes fall from the first to the last; slopes: (samples)."""
    falls: np.ndarray = -slopes * np.log2(grid.sizes[-1] / grid.sizes[0])
    return falls


def _fall_of_best(grid: Grid) -> np.ndarray:
    """(samples): points by which the line through the best accuracies falls."""
    return 100 * _fall(grid, grid.slope())


def _reaches_large(t: Thresholds, grid: Grid) -> bool:
    return len(grid) > 2 and grid.sizes[-1] >= t["large_batch"]


def best_within(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """The best accuracy at sizes in low ... high is above the best at others."""
    inside, outside = grid.split((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and len(outside):
        sentence = f"best inside at {inside.best_words()}, outside at {outside.best_words()}"
        yield Comparison(sentence, 100 * inside.lead(outside), at_least=0)


def untrainable_at_the_largest(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At the overall best rate the largest m does not train."""
    if _reaches_large(t, grid):
        rate = _best_rate(grid)
        sentence = f"at the best rate {_rate(grid)} {grid.seeds_words(-1, rate[0])} converged at m = {grid.sizes[-1]}"
        failed = 1 - grid.at(grid.exact, rate)[:, -1]
        yield Comparison(sentence, 100 * failed, at_least=100 * t["converged_share"], unit="% of seeds")


def degrades_before_collapse(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At rates that train at the smallest m, accuracy falls until the last m at which every seed trains.

    A cell in which a seed has failed is left out: its mean tells how many failed, not how good the others are.
    """
    if not _reaches_large(t, grid):
        return
    there = ~np.isnan(grid.accuracy[0])
    unbroken = np.logical_and.accumulate((grid.converged[0] == 1) | ~there, axis=0) & there
    last = len(grid) - 1 - unbroken[::-1].argmax(axis=0)  # (rates)
    rates = np.flatnonzero(unbroken[0] & (last > 0))
    if len(rates):
        lost = 100 * (grid.accuracy[:, 0, rates] - grid.accuracy[:, last[rates], rates]).mean(axis=1)
        ends = f"from m = {grid.sizes[0]} to the last m at which all seeds train"
        sentence = f"{ends} accuracy falls by {lost[0]:.1f} points, over {counted(len(rates), 'rate')}"
        yield Comparison(sentence, lost, at_least=t["margin"])


def collapses(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Rates that train at the smallest m fail at the largest that they have."""
    rates = np.flatnonzero(grid.converged[0, 0] > t["converged_share"])
    if not _reaches_large(t, grid) or not len(rates):
        return
    there = ~np.isnan(grid.accuracy[0])
    largest = len(grid) - 1 - there[::-1].argmax(axis=0)  # (rates)
    failed = 100 * (1 - grid.exact[:, largest[rates], rates]).mean(axis=1)
    sentence = f"of the rates that train at m = {grid.sizes[0]}, {failed[0]:.0f} % fail at the largest m"
    yield Comparison(sentence, failed, at_least=100 * t["converged_share"], unit="% of seeds")


def _widths(grid: Grid) -> np.ndarray:
    """(samples, sizes): rates that converge, a seed's as its share, among those that all sizes have results at."""
    full = ~np.isnan(grid.accuracy[0]).any(axis=0)
    return grid.converged[:, :, full].sum(axis=2) if full.any() else np.full(grid.converged.shape[:2], np.nan)


_UNSHARED = "there is no rate that all batch sizes have results at"


def smallest_have_widest_range(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """On average over the smallest m more rates converge than at each larger m."""
    small = grid.sizes <= t["smallest_batch"]
    if small.any() and not small.all():
        widths = _widths(grid)
        among_small = widths[:, small].mean(axis=1)
        for place in np.flatnonzero(~small):
            sentence = f"{among_small[0]:.1f} rates converged on average over m ≤ {t['smallest_batch']}"
            sentence = f"{sentence}, {widths[0, place]:.1f} at m = {grid.sizes[place]}"
            yield Comparison(
                _UNSHARED if np.isnan(among_small[0]) else sentence,
                among_small - widths[:, place],
                at_least=0,
                unit="rates",
            )


def range_shrinks(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """The line through the numbers of converging rates over log2 m falls.

    With BN it starts among the smallest m with the largest: that BN over a few examples suffers is another claim.
    """
    if grid.setting["norm"] == "batch":
        grid = grid.having(grid.sizes >= t["smallest_batch"])
    if _reaches_large(t, grid):
        widths = _widths(grid)
        sentence = (
            f"{widths[0, 0]:.1f} rates converged at m = {grid.sizes[0]}, {widths[0, -1]:.1f} at m = {grid.sizes[-1]}"
        )
        fall = _fall(grid, slope(np.log2(grid.sizes), widths))
        yield Comparison(_UNSHARED if np.isnan(fall[0]) else sentence, fall, at_least=0, unit="rates")


def _trains_up_to(
    t: Thresholds, grid: Grid, bound: int, shares: np.ndarray, at: str, rates: np.ndarray
) -> Iterator[Comparison]:
    """Of each size the share of seeds on the claim's side: that converge up to the bound, that fail beyond it.

    shares: (samples, sizes), of seeds that converge at a rate. at: that rate in words. rates: its places in the data.
    """
    small = grid.sizes <= bound
    if small.any() and _reaches_large(t, grid):
        for place, inside in enumerate(small):
            share = shares[:, place] if inside else 1 - shares[:, place]
            sentence = f"{at}, m = {grid.sizes[place]}: {grid.seeds_words(place, rates[place])} converged"
            yield Comparison(sentence, 100 * share, at_least=100 * t["converged_share"], unit="% of seeds")


def trains_only_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Comparison]:
    """Some rate trains every m up to the bound, and none any larger m."""
    shares = np.fmax.reduce(grid.exact, axis=2)
    best = np.nan_to_num(grid.converged[0], nan=-1).argmax(axis=1)
    yield from _trains_up_to(t, grid, bound, shares, "at the rate where most do", best)


def best_rate_usable_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Comparison]:
    """The overall best rate trains every m up to the bound, and no larger m."""
    rate = _best_rate(grid)
    shares, everywhere = grid.at(grid.exact, rate), np.full(len(grid), rate[0])
    yield from _trains_up_to(t, grid, bound, shares, f"at the best rate {_rate(grid)}", everywhere)


def _best_rate(grid: Grid) -> np.ndarray:
    """(samples): place of the overall best rate, the one that is best in the study; of one seed, any that may be."""
    rate = grid.best_rate()
    return rate if grid.seeds.max() == 1 else np.full_like(rate, rate[0])


def _rate(grid: Grid) -> str:
    return rate_words(grid.base_lrs[grid.best_rate()[0]])


def peaks_at(t: Thresholds, grid: Grid, percent: float) -> Iterator[Comparison]:
    """The best accuracy is about so many percent."""
    sentence = f"best at {grid.best_words()}, {percent:g} % expected"
    yield Comparison(sentence, 100 * grid.peak() - percent, at_least=-t["near"], at_most=t["near"])


def coincide(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """At one rate the curve of each m in low ... high runs about where the mean of those curves does."""
    inside = grid.having((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) > 1 and len(grid.base_lrs) == 1:
        curves = inside.best()
        mean = curves.mean(axis=1)
        for size, curve in zip(inside.sizes, curves.T, strict=True):
            sentence = f"m = {size} averages {_percent(curve[0])}, all of {_sizes(inside)} {_percent(mean[0])}"
            yield Comparison(sentence, 100 * (curve - mean), at_least=-t["same"], at_most=t["same"])


def worse_beyond(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """At one rate the curve of each m above high runs below the mean of the curves of low ... high."""
    inside, larger = grid.having((grid.sizes >= low) & (grid.sizes <= high)), grid.having(grid.sizes > high)
    if len(inside) and len(grid.base_lrs) == 1:
        mean = inside.best().mean(axis=1)
        for size, curve in zip(larger.sizes, larger.best().T, strict=True):
            sentence = f"m = {size} averages {_percent(curve[0])}, {_sizes(inside)} {_percent(mean[0])}"
            yield Comparison(sentence, 100 * (mean - curve), at_least=t["margin"])


def improves(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second is better at half of the sizes or more: the median of its gains is."""
    second, gains = _gains(first, second)
    if len(second):
        lowest, highest = gains[0].argmin(), gains[0].argmax()
        sentence = (
            f"median gain {np.median(gains[0]):+.1f} points over {_sizes(second)}, from {gains[0, lowest]:+.1f} at "
            f"m = {second.sizes[lowest]} to {gains[0, highest]:+.1f} at m = {second.sizes[highest]}"
        )
        yield Comparison(sentence, np.median(gains, axis=1), at_least=t["margin"])


def smallest_suffers(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """The smallest m, where it is below low, is worse than the best in low ... high."""
    inside = grid.having((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and grid.sizes[0] < low:
        smallest = grid.having(grid.sizes[:1])
        reached = _percent(smallest.peak()[0])
        sentence = f"m = {grid.sizes[0]} reaches {reached}, {inside.best_words()} is the best in {low} ... {high}"
        yield Comparison(sentence, 100 * inside.lead(smallest), at_least=t["margin"])


def same_peak(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The best accuracies of both are about the same."""
    sentence = f"best at {second.best_words()}, in {first.where} at {first.best_words()}"
    yield Comparison(sentence, 100 * second.lead(first), at_least=-t["same"], at_most=t["same"])


def falls_from(t: Thresholds, grid: Grid, low: int = 0) -> Iterator[Comparison]:
    """The line fitted to the best accuracies over log2 of the sizes from low up falls from its first to its last."""
    grid = grid.having(grid.sizes >= low)
    if len(grid) > 1:
        best = 100 * grid.best()
        sentence = f"from {best[0, 0]:.1f} % at m = {grid.sizes[0]} to {best[0, -1]:.1f} % at m = {grid.sizes[-1]}"
        yield Comparison(sentence, _fall_of_best(grid), at_least=t["margin"])


def falls_to_large(t: Thresholds, grid: Grid, low: int) -> Iterator[Comparison]:
    """The fall as in `falls_from`, down to large m."""
    if _reaches_large(t, grid.having(grid.sizes >= low)):
        yield from falls_from(t, grid, low)


def falls_more(t: Thresholds, first: Grid, second: Grid, low: int) -> Iterator[Comparison]:
    """The fall as in `falls_from` is larger in the second."""
    first, second = _common(first.having(first.sizes >= low), second.having(second.sizes >= low))
    if len(second) > 1:
        less, more = _fall_of_best(first), _fall_of_best(second)
        sentence = f"{_sizes(second)} lose {more[0]:.1f} points, {less[0]:.1f} in {first.where}"
        yield Comparison(sentence, more - less, at_least=t["margin"])


def good_out_to(t: Thresholds, grid: Grid, best: tuple[int, int], low: int, high: int) -> Iterator[Comparison]:
    """Each m in low ... high comes near the mean over the m that are best: the best of them is so by luck, too."""
    inside = grid.having((grid.sizes >= best[0]) & (grid.sizes <= best[1]))
    larger = grid.having((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside):
        mean = inside.best().mean(axis=1)
        for size, accuracy in zip(larger.sizes, larger.best().T, strict=True):
            sentence = f"m = {size} reaches {_percent(accuracy[0])}, {_sizes(inside)} {_percent(mean[0])}"
            yield Comparison(sentence, 100 * (mean - accuracy), at_most=t["near"])


def helps(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second is better on average over m."""
    second, gains = _gains(first, second)
    if len(second):
        sentence = f"{gains[0].mean():+.1f} points on average over {_sizes(second)} against {first.where}"
        yield Comparison(sentence, gains.mean(axis=1), at_least=t["margin"])


def helps_large_most(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second gains more on average over large m than over small."""
    yield from _large_gain_more(t, *_gains(first, second))


def _large_gain_more(t: Thresholds, grid: Grid, gains: np.ndarray, where: str = "") -> Iterator[Comparison]:
    """gains: (samples, sizes), NaN where the data lack a cell."""
    small = grid.sizes <= t["small_batch"]
    if small.any() and not small.all():
        at_small, at_large = nan_mean(gains[:, small], axis=1), nan_mean(gains[:, ~small], axis=1)
        sentence = f"{where}{at_large[0]:+.1f} points at m > {t['small_batch']}, {at_small[0]:+.1f} at smaller m"
        yield Comparison(sentence, at_large - at_small, at_least=t["margin"])


def large_stay_below(t: Thresholds, grid: Grid, other: Grid | None = None) -> Iterator[Comparison]:
    """The mean over large m of the best accuracies is below that over small m, be it of a grid before it."""
    small, _ = _small_and_large(t, grid)
    _, large = _small_and_large(t, grid if other is None else other)
    if len(small) and len(large):
        at_small, at_large = small.best().mean(axis=1), large.best().mean(axis=1)
        of = "" if other is None else f" of {grid.where}"
        sentence = f"{_sizes(large)} average {_percent(at_large[0])}, {_sizes(small)}{of} {_percent(at_small[0])}"
        yield Comparison(sentence, 100 * (at_small - at_large), at_least=t["margin"])


def large_degrade_most_at_best_rate(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At the overall best rate large m fall further below small m than at each other rate."""
    small, large = _small_and_large(t, grid)
    if len(small) and len(large):
        gaps = 100 * (nan_mean(small.accuracy, axis=1) - nan_mean(large.accuracy, axis=1))
        best = _best_rate(grid)[0]
        for rate in np.flatnonzero(~np.isnan(gaps[0]) & (np.arange(gaps.shape[1]) != best)):
            sentence = f"large m lie {gaps[0, best]:.1f} points below small at the best rate {_rate(grid)}"
            sentence = f"{sentence}, {gaps[0, rate]:.1f} at {rate_words(grid.base_lrs[rate])}"
            yield Comparison(sentence, gaps[:, best] - gaps[:, rate], at_least=0)


def small_are_stable(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Small m train at every rate at which any m trains."""
    small, large = _small_and_large(t, grid)
    if len(small) and len(large):
        in_range = np.fmax.reduce(grid.converged[0], axis=0) > t["converged_share"]
        for size, rate in np.argwhere(in_range & (small.seeds > 0)):
            cell = f"m = {small.sizes[size]} at {rate_words(small.base_lrs[rate])}"
            sentence = f"{cell}: {small.seeds_words(size, rate)} converged"
            share = 100 * small.exact[:, size, rate]
            yield Comparison(sentence, share, at_least=100 * t["converged_share"], unit="% of seeds")


def best_below_whole(t: Thresholds, grid: Grid, above: int) -> Iterator[Comparison]:
    """The best accuracy at b < m is above that at b = m, for one m above a size."""
    below, whole = grid.split(grid.sizes < grid.setting["batch_size"])
    if len(below) and len(whole) and whole.sizes[0] > above:
        sentence = f"best below m at {below.best_words()}, the whole batch has {_percent(whole.peak()[0])}"
        yield Comparison(sentence, 100 * below.lead(whole), at_least=0)


def improves_down_to_two_without_norm(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Where nothing is normalised, the line through the best accuracies of small m falls from m = 2 on."""
    small, _ = _small_and_large(t, grid)
    if grid.setting["norm"] == "none" and len(small) > 1 and small.sizes[0] == 2:
        best = 100 * small.best()
        sentence = f"from {best[0, 0]:.1f} % at m = 2 to {best[0, -1]:.1f} % at m = {small.sizes[-1]}"
        yield Comparison(sentence, _fall_of_best(small), at_least=0)


def longer_helps_large_most(t: Thresholds, short: Grid, long: Grid) -> Iterator[Comparison]:
    """At the overall best rate of the shorter training the longer one gains more on average over large m than small."""
    short, long = _common(short, long)
    if len(long):
        _, of_short, of_long = np.intersect1d(short.base_lrs, long.base_lrs, return_indices=True)
        gain = np.full((*short.accuracy.shape[:2], len(short.base_lrs)), np.nan)
        gain[:, :, of_short] = 100 * (long.accuracy[:, :, of_long] - short.accuracy[:, :, of_short])
        at_best = short.at(gain, _best_rate(short))
        yield from _large_gain_more(t, long, at_best, f"at the best rate of {short.where}, {_rate(short)}: ")


def large_still_below(t: Thresholds, short: Grid, long: Grid) -> Iterator[Comparison]:
    """After the longer training large m stay below small m."""
    yield from large_stay_below(t, long)


def grows_linearly(t: Thresholds, measured: pd.DataFrame, generator: np.random.Generator) -> Iterator[Comparison]:
    """At each epoch measured, the trace of the update's covariance has slope one over m, on logarithmic axes.

    Not where batch statistics are over all of a mini-batch: section 2 of the paper takes examples that know nothing of
    each other. Sub-batches of one size do not.

    Args:
        t: thresholds.
        measured: as `update_variance.measured` gives it.
        generator: puts what is possible in an order of its own for each comparison.
    """
    apart = (measured["norm"] != "batch") | (measured["bn_batch_size"] < measured["trained_batch_size"])
    for (experiment, epoch), rows in measured[apart].groupby(["experiment", "epoch"]):
        own = slopes(rows)
        if rows["batch_size"].nunique() > 2 and len(own):
            effect = mean_samples(own)
            effect[1:] = dealt(effect[1:], generator)
            ends = f"m = {rows['batch_size'].min():.0f} ... {rows['batch_size'].max():.0f}"
            sentence = (
                f"{experiment}, epoch {epoch:.0f}: slope {effect[0]:.2f} over {ends}, {counted(len(own), 'seed')}"
            )
            low, high = 1 - t["slope_tolerance"], 1 + t["slope_tolerance"]
            yield Comparison(sentence, effect, at_least=low, at_most=high, unit="slope", seeds=len(own))
