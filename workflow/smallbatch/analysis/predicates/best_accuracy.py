"""Where the best accuracy lies, and how high it is."""

from collections.abc import Iterator

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import percent_words, sizes_words
from smallbatch.analysis.verdicts import Comparison


def best_within(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """The best accuracy at sizes in low ... high is above the best at others."""
    inside, outside = grid.split((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and len(outside):
        sentence = f"best inside at {inside.best_words()}, outside at {outside.best_words()}"
        yield Comparison(sentence, 100 * inside.peak_difference(outside), at_least=0)


def peak_accuracy_near(t: Thresholds, grid: Grid, percent: float) -> Iterator[Comparison]:
    """The best accuracy is about so many percent."""
    sentence = f"best at {grid.best_words()}, {percent:g} % expected"
    yield Comparison(sentence, 100 * grid.peak() - percent, at_least=-t["near"], at_most=t["near"])


def same_peak(t: Thresholds, first: Grid, second: Grid) -> Iterator[Comparison]:
    """The best accuracies of both are about the same."""
    sentence = f"best at {second.best_words()}, in {first.where} at {first.best_words()}"
    yield Comparison(sentence, 100 * second.peak_difference(first), at_least=-t["same"], at_most=t["same"])


def better_by(t: Thresholds, first: Grid, second: Grid, points: float) -> Iterator[Comparison]:
    """The best accuracy of the second is above that of the first by so many points."""
    sentence = f"best at {second.best_words()}, in {first.where} at {first.best_words()}"
    yield Comparison(sentence, 100 * second.peak_difference(first), at_least=points)


def smallest_suffers(t: Thresholds, grid: Grid, low: int, high: int) -> Iterator[Comparison]:
    """The smallest m, where it is below low, is worse than the best in low ... high."""
    inside = grid.select_sizes((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside) and grid.sizes[0] < low:
        smallest = grid.select_sizes(grid.sizes[:1])
        reached = percent_words(smallest.peak()[0])
        sentence = f"m = {grid.sizes[0]} reaches {reached}, {inside.best_words()} is the best in {low} ... {high}"
        yield Comparison(sentence, 100 * inside.peak_difference(smallest), at_least=t["margin"])


def still_near_best_to(t: Thresholds, grid: Grid, best: tuple[int, int], low: int, high: int) -> Iterator[Comparison]:
    """Each m in low ... high comes near the mean over the m that are best: the best of them is so by luck, too."""
    inside = grid.select_sizes((grid.sizes >= best[0]) & (grid.sizes <= best[1]))
    larger = grid.select_sizes((grid.sizes >= low) & (grid.sizes <= high))
    if len(inside):
        mean = inside.best().mean(axis=1)
        for size, accuracy in zip(larger.sizes, larger.best().T, strict=True):
            reaches = f"m = {size} reaches {percent_words(accuracy[0])}"
            sentence = f"{reaches}, {sizes_words(inside)} {percent_words(mean[0])}"
            yield Comparison(sentence, 100 * (mean - accuracy), at_most=t["near"])


def smaller_bn_batch_is_better(t: Thresholds, grid: Grid, above: int) -> Iterator[Comparison]:
    """The best accuracy at b < m is above that at b = m, for one m above a size."""
    below, whole = grid.split(grid.sizes < grid.setting["batch_size"])
    if len(below) and len(whole) and whole.sizes[0] > above:
        sentence = f"best below m at {below.best_words()}, the whole batch has {percent_words(whole.peak()[0])}"
        yield Comparison(sentence, 100 * below.peak_difference(whole), at_least=0)
