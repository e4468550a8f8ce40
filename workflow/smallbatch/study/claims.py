"""The user's own claims in a study's file, checked before anything is trained."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from smallbatch.core.errors import refuse
from smallbatch.study.experiments import Experiment
from smallbatch.study.user_function_checks import check_function, check_in_project
from smallbatch.study.yaml_validation import suggestion

TEXT = "text"
OF_TWO = ("improves", "same_accuracy")
"""Kinds that compare two figures, `from` and `to`."""

FUNCTION = "function"
"""The kind that is computed by a file of the user's own."""

OF_SEVERAL_SIZES = ("best_batch_size", "accuracy_falls", "range_shrinks")
"""Kinds that compare the batch sizes of one figure."""

FIGURE_KINDS_WITHOUT_ACCURACY = ("variance", "example-variance", "cost", "convergence")
"""Kinds of figures that show no accuracy over batch sizes and rates."""

ALLOWED_FIGURES_TEXT = "figures of accuracies of one experiment, with one BN batch size for each batch size"
"""The figures that a claim may be about, in words."""


def kind_of(spec: Mapping[str, Any]) -> str:
    """The kind of a claim: the one key beside its text."""
    [kind] = spec.keys() - {TEXT}
    return kind


def figures_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures of the study that a claim is about, by name."""
    return tuple(figure for _, figure in _keyed_figures(spec))


def _keyed_figures(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The key of each figure of a claim, and the figure."""
    kind = kind_of(spec)
    asked = spec[kind]
    if kind == FUNCTION:
        return [(f"figures.{place}", figure) for place, figure in enumerate(asked["figures"])]
    return [(key, asked[key]) for key in (("from", "to") if kind in OF_TWO else ("figure",))]


def files_of(claims: Iterable[Mapping[str, Any]]) -> list[Path]:
    """The files of the user's own that claims are computed by."""
    return [Path(spec[FUNCTION]["file"]) for spec in claims if FUNCTION in spec]


def check_claims(
    where: str,
    claims: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, Any]],
    experiments: Mapping[str, Experiment],
) -> None:
    """Check that claims are about figures that exist and can be judged.

    Args:
        where: the study's file.
        claims: the claims by name, each with its text and the values of its kind.
        figures: the study's figures, by name.
        experiments: the study's experiments, by name.

    Raises:
        UserError: a claim is not allowed; names key, value and what is allowed.
    """
    judged = [name for name, spec in figures.items() if _can_be_judged(spec, experiments)]
    for name, spec in claims.items():
        kind, key = kind_of(spec), f"claims.{name}"
        asked, key_of_kind = spec[kind], f"{key}.{kind}"
        if name in figures:
            refuse(where, key, name, "names that no figure has")
        for key_of_figure, figure in _keyed_figures(spec):
            if figure not in judged:
                allowed = (
                    f"{ALLOWED_FIGURES_TEXT}: {', '.join(judged) or 'the study has none'}{suggestion(figure, judged)}"
                )
                refuse(where, f"{key_of_kind}.{key_of_figure}", figure, allowed)
        if kind in OF_TWO and asked["from"] == asked["to"]:
            refuse(where, f"{key_of_kind}.to", asked["to"], "another figure than `from`")
        if len({figures[figure].get("metric") for figure in figures_of(spec)}) > 1:
            refuse(where, key_of_kind, ", ".join(figures_of(spec)), "figures of one metric")
        [shown, *_] = figures[figures_of(spec)[0]]["experiments"]
        sizes = set(experiments[shown].batch_sizes)
        if kind in OF_SEVERAL_SIZES and len(sizes) < 2:
            refuse(where, f"{key_of_kind}.figure", asked["figure"], "a figure with two batch sizes or more")
        if kind == "best_batch_size":
            _check_bounds(where, key_of_kind, asked, sizes)
        if kind == FUNCTION:
            _check_function(where, key_of_kind, asked)
        if kind == "accuracy_falls" and sum(m >= asked.get("from", 1) for m in sizes) < 2:
            allowed = f"a number up to the last but one of {_listed(sizes)}"
            refuse(where, f"{key_of_kind}.from", asked.get("from"), allowed)


def _can_be_judged(figure: Mapping[str, Any], experiments: Mapping[str, Experiment]) -> bool:
    """Whether a figure has one accuracy for each batch size and rate, so that it is clear what is compared."""
    shown = [experiments[name] for name in figure["experiments"]]
    return (
        figure["kind"] not in FIGURE_KINDS_WITHOUT_ACCURACY
        and len(shown) == 1
        and len(shown[0].bn_batch_sizes or (0,)) == 1
    )


def _check_bounds(where: str, key: str, asked: Mapping[str, Any], sizes: Collection[int]) -> None:
    """Check that some batch sizes lie within a claim's bounds, and some outside."""
    low, high = asked.get("at_least", 0), asked.get("at_most", float("inf"))
    inside = {m for m in sizes if low <= m <= high}
    if not inside or inside == set(sizes):
        allowed = f"at_least, at_most or both, with some of {_listed(sizes)} between them, and some not"
        refuse(where, key, {name: value for name, value in asked.items() if name != "figure"}, allowed)


def _check_function(where: str, key: str, asked: Mapping[str, Any]) -> None:
    """Check that a claim's file can be read and defines the function, without running the file."""
    check_in_project(where, f"{key}.file", asked["file"])
    count = 1 + len(asked["figures"])
    allowed = f"a function of {count} arguments, the thresholds and a grid of each figure"
    check_function(where, (f"{key}.file", f"{key}.name"), asked["file"], asked["name"], count, allowed)


def survives(spec: Mapping[str, Any], figures: Collection[str], scale: Mapping[str, Any]) -> bool:
    """Whether a claim still applies to a study that a scale reduces: its figures and the batch sizes it needs are left.

    Args:
        spec: the claim.
        figures: names of the figures that are left.
        scale: the scale of the configuration.
    """
    has_sizes = "batch_sizes" not in scale or kind_of(spec) not in OF_SEVERAL_SIZES
    return has_sizes and set(figures_of(spec)) <= set(figures)


def _listed(sizes: Collection[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
