"""What a claim is: checks of figures by predicates."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from smallbatch.analysis.predicates import Predicate, best_accuracy


@dataclass(frozen=True)
class Check:
    """A predicate and the figures whose grids it takes together.

    each: `batch_size` or `bn_batch_size`: the runs of each of its values make a grid of their own, over the other one.
        `curve` or `phase`: a run's accuracy is its mean over all epochs, or over each stretch of one learning rate.
    """

    figures: tuple[str, ...]
    predicate: Predicate
    each: str | None = None

    @property
    def about(self) -> Predicate:
        """What it checks, be it of which figures and with which arguments."""
        return self.predicate.func if isinstance(self.predicate, partial) else self.predicate


@dataclass(frozen=True)
class Claim:
    """A claim in our words.

    name, section: its number among the claims, the paper's section; of the user's own its name, and no section.
    predicate: what is computed, in words; thresholds stand in braces by name.
    checks: empty if the claim is about a measurement and not a figure of the paper.
    reading: where the text leaves room, how it is read here.
    """

    name: str
    section: str
    text: str
    predicate: str
    checks: tuple[Check, ...]
    reading: str = ""

    @property
    def figures(self) -> list[str]:
        """The paper's figures that it rests on."""
        return sorted({figure for check in self.checks for figure in check.figures})

    @property
    def thresholds(self) -> list[str]:
        """Names of the thresholds that it uses."""
        return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.predicate) if name))


def each_of(figures: Sequence[str], predicate: Predicate, each: str | None = None, **arguments: Any) -> list[Check]:
    """The same check of each figure."""
    return [Check((figure,), partial(predicate, **arguments), each) for figure in figures]


def best_in(figures: Sequence[str], low: int, high: int, each: str | None = None) -> list[Check]:
    """That in each figure the best accuracy is at sizes in low ... high."""
    return each_of(figures, best_accuracy.best_within, each, low=low, high=high)


def best_words(sizes: str) -> str:
    """What `best_in` computes."""
    return f"best accuracy at {sizes} minus best at other batch sizes: above 0 points"


RATES_THAT_CONVERGE = "number of rates that converge (each counts as the share of its seeds)"
