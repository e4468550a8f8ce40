"""Claims of the user's own, as the file of a study says them, over the predicates of the paper's."""

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from smallbatch.analysis.claims.claim import RATES_THAT_CONVERGE, Check, Claim, best_words
from smallbatch.analysis.claims.user_function import comparisons_of
from smallbatch.analysis.predicates import Predicate, accuracy_declines, best_accuracy, converging_rates
from smallbatch.study.claims import FUNCTION, figures_of, kind_of
from smallbatch.study.metrics import ACCURACY, LABELS

UserClaim = Mapping[str, Any]
"""What stands behind the kind of a claim."""


def claims_of(asked: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """The claims of a study's file, in its order.

    Args:
        asked: `claims` of a checked study, by name.
        figures: its figures, by name.
    """
    return [_claim(name, spec, figures) for name, spec in asked.items()]


def _claim(name: str, spec: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> Claim:
    kind = kind_of(spec)
    predicate, words = _KINDS[kind](spec[kind])
    metric = figures[figures_of(spec)[0]].get("metric", ACCURACY)
    words = words if metric == ACCURACY else re.sub("accurac(y|ies)", LABELS[metric], words)
    return Claim(name, "", spec["text"], words, (Check(figures_of(spec), predicate),))


def _best_batch_size(asked: UserClaim) -> tuple[Predicate, str]:
    low, high = asked.get("at_least", 1), asked.get("at_most", sys.maxsize)
    sizes = f"m = {low} ... {high}"
    if len(asked.keys() & {"at_least", "at_most"}) == 1:
        sizes = f"m ≤ {high}" if "at_most" in asked else f"m ≥ {low}"
    return partial(best_accuracy.best_within, low=low, high=high), best_words(sizes)


def _improves(asked: UserClaim) -> tuple[Predicate, str]:
    points = asked.get("by", 0)
    return partial(best_accuracy.better_by, points=points), f"{_difference(asked)}: above {points:g} points"


def _same_accuracy(asked: UserClaim) -> tuple[Predicate, str]:
    return best_accuracy.same_peak, f"{_difference(asked)}: within {{same}} points"


def _difference(asked: UserClaim) -> str:
    return f"best accuracy in {asked['to']} minus best in {asked['from']}"


def _accuracy_falls(asked: UserClaim) -> tuple[Predicate, str]:
    low = asked.get("from", 1)
    words = f"fall, from its first to its last, of the line through the best accuracies at m ≥ {low} over log2 m"
    return partial(accuracy_declines.falls_from, low=low), f"{words}: above {{margin}} points"


def _range_shrinks(asked: UserClaim) -> tuple[Predicate, str]:
    words = f"fall of the line through the {RATES_THAT_CONVERGE} over log2 m: above 0 rates"
    return converging_rates.range_shrinks_over_all, words


def _function(asked: UserClaim) -> tuple[Predicate, str]:
    name, file = asked["name"], asked["file"]
    words = f"what {name} of {file} computes".replace("{", "{{").replace("}", "}}")  # of which none is a threshold
    return partial(comparisons_of, Path(file), name), words


_KINDS: dict[str, Callable[[UserClaim], tuple[Predicate, str]]] = {
    "best_batch_size": _best_batch_size,
    "improves": _improves,
    "same_accuracy": _same_accuracy,
    "accuracy_falls": _accuracy_falls,
    "range_shrinks": _range_shrinks,
    FUNCTION: _function,
}
"""Kind of a claim -> from what stands behind it the predicate and what that computes, in words."""
