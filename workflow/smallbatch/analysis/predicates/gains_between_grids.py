"""By how much the second of two grids is better than the first."""

from collections.abc import Iterator

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import best_rate_words, common_sizes, observed_best_rate_index, sizes_words
from smallbatch.analysis.statistics import nan_mean
from smallbatch.analysis.verdicts import Comparison


def _gains(first: Grid, second: Grid) -> tuple[Grid, np.ndarray]:
    """The second with the sizes that both have, and (samples, sizes): points by which its best are higher."""
    first, second = common_sizes(first, second)
    return second, 100 * (second.best() - first.best())


def median_gain(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second is better at half of the sizes or more: the median of its gains is."""
    second, gains = _gains(first, second)
    if len(second):
        lowest, highest = gains[0].argmin(), gains[0].argmax()
        sentence = (
            f"median gain {np.median(gains[0]):+z.1f} points over {sizes_words(second)}, from {gains[0, lowest]:+z.1f} "
            f"at m = {second.sizes[lowest]} to {gains[0, highest]:+z.1f} at m = {second.sizes[highest]}"
        )
        yield Comparison(sentence, np.median(gains, axis=1), at_least=t["margin"])


def mean_gain(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second is better on average over m."""
    second, gains = _gains(first, second)
    if len(second):
        sentence = f"{gains[0].mean():+z.1f} points on average over {sizes_words(second)} against {first.where}"
        yield Comparison(sentence, gains.mean(axis=1), at_least=t["margin"])


def gains_more_at_large_batches(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The second gains more on average over large m than over small."""
    yield from _large_gain_more(t, *_gains(first, second))


def longer_training_gains_more_at_large_batches(t: Thresholds, short: Grid, long: Grid) -> Iterator[Comparison]:
    """At the overall best rate of the shorter training the longer one gains more on average over large m than small."""
    short, long = common_sizes(short, long)
    if len(long):
        _, of_short, of_long = np.intersect1d(short.base_lrs, long.base_lrs, return_indices=True)
        gain = np.full((*short.accuracy.shape[:2], len(short.base_lrs)), np.nan)
        gain[:, :, of_short] = 100 * (long.accuracy[:, :, of_long] - short.accuracy[:, :, of_short])
        at_best = short.take_rate(gain, observed_best_rate_index(short))
        yield from _large_gain_more(t, long, at_best, f"at the best rate of {short.where}, {best_rate_words(short)}: ")


def _large_gain_more(t: Thresholds, grid: Grid, gains: np.ndarray, where: str = "") -> Iterator[Comparison]:
    """gains: (samples, sizes), NaN where the data lack a cell."""
    small = grid.sizes <= t["small_batch"]
    if small.any() and not small.all():
        at_small, at_large = nan_mean(gains[:, small], axis=1), nan_mean(gains[:, ~small], axis=1)
        sentence = f"{where}{at_large[0]:+z.1f} points at m > {t['small_batch']}, {at_small[0]:+z.1f} at smaller m"
        yield Comparison(sentence, at_large - at_small, at_least=t["margin"])
