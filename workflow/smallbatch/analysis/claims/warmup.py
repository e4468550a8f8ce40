"""Claims of section 3.4: a gradual warm-up of the learning rate."""

from functools import partial

from smallbatch.analysis.claims.claim import Check, Claim, best_in, best_words, each_of
from smallbatch.analysis.predicates import accuracy_declines, best_accuracy, gains_between_grids, large_batches

_WARMED = (("fig08", "fig10"), ("fig09", "fig11"))

CLAIMS = (
    Claim(
        "C14",
        "3.4",
        "warm-up generally helps, mostly at large m",
        "for each data set, best accuracy with warm-up minus without: mean over m above {margin} points; and mean over "
        "m > {small_batch} minus mean over smaller m above {margin} points",
        (
            *[Check(figures, gains_between_grids.mean_gain) for figures in _WARMED],
            *[Check(figures, gains_between_grids.gains_more_at_large_batches) for figures in _WARMED],
        ),
        "helping generally is helping on average over m",
    ),
    Claim(
        "C15",
        "3.4",
        "with warm-up, CIFAR-10: best at m = 4 or 8, good results out to 128",
        best_words("m = 4 ... 8")
        + "; and mean of the best at those minus the best at each m in 16 ... 128: below {near} points",
        (
            *best_in(["fig10"], 4, 8),
            *each_of(["fig10"], best_accuracy.still_near_best_to, best=(4, 8), low=16, high=128),
        ),
    ),
    Claim(
        "C16",
        "3.4",
        "with warm-up, CIFAR-100: best at m in 4 ... 16, steeper fall beyond",
        best_words("m = 4 ... 16")
        + "; and fall of the best accuracies from m = 16 to the largest, of a line over log2 m, "
        "minus that on CIFAR-10 (fig10): above {margin} points",
        (
            *best_in(["fig11"], 4, 16),
            Check(("fig10", "fig11"), partial(accuracy_declines.falls_more, low=16)),
        ),
    ),
    Claim(
        "C17",
        "3.4",
        "warm-up does not bring large m level with small m",
        "for each data set, mean over m ≤ {small_batch} of the best accuracies, with warm-up and without, minus mean "
        "over larger m with warm-up: above {margin} points",
        (
            *each_of(["fig10", "fig11"], large_batches.large_stay_below),
            *[Check(figures, large_batches.large_stay_below) for figures in _WARMED],
        ),
    ),
)
