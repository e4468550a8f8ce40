"""How curves of accuracy over epochs lie to each other: grids of mean accuracies over epochs at one rate."""

from collections.abc import Iterator

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import percent_words, sizes_words
from smallbatch.analysis.verdicts import Comparison


def coincide(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """At one rate the curve of each m in low ... high runs about where the mean of those curves does."""
    inside = grid.select_sizes((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) > 1 and len(grid.base_lrs) == 1:
        curves = inside.best()
        mean = curves.mean(axis=1)
        for size, curve in zip(inside.sizes, curves.T, strict=True):
            averages = f"m = {size} averages {percent_words(curve[0])}"
            sentence = f"{averages}, all of {sizes_words(inside)} {percent_words(mean[0])}"
            yield Comparison(sentence, 100 * (curve - mean), at_least=-t["same"], at_most=t["same"])


def worse_beyond(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """At one rate the curve of each m above high runs below the mean of the curves of low ... high."""
    inside, larger = grid.select_sizes((grid.sizes >= low) & (grid.sizes <= high)), grid.select_sizes(grid.sizes > high)
    if len(inside) and len(grid.base_lrs) == 1:
        mean = inside.best().mean(axis=1)
        for size, curve in zip(larger.sizes, larger.best().T, strict=True):
            sentence = f"m = {size} averages {percent_words(curve[0])}, {sizes_words(inside)} {percent_words(mean[0])}"
            yield Comparison(sentence, 100 * (mean - curve), at_least=t["margin"])
