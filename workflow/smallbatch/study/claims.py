"""What a claim of the user's own is about: of the file of a study, checked before anything is trained."""

import ast
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from smallbatch.core.errors import refuse
from smallbatch.study.experiments import Experiment
from smallbatch.study.settings import suggestion

TEXT = "text"
OF_TWO = ("improves", "same_accuracy")
"""Kinds that compare two figures, `from` and `to`."""

FUNCTION = "function"
"""The kind that is computed by a file of the user's own."""

UNJUDGED = ("variance", "example-variance", "cost", "convergence")
"""Kinds of figures that show no accuracy over batch sizes and rates."""


def kind_of(spec: Mapping[str, Any]) -> str:
    """The kind of a claim: the one key beside its text."""
    [kind] = spec.keys() - {TEXT}
    return kind


def figures_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures of the study that a claim is about, by name."""
    kind = kind_of(spec)
    asked = spec[kind]
    if kind in OF_TWO:
        return asked["from"], asked["to"]
    return tuple(asked["figures"]) if kind == FUNCTION else (asked["figure"],)


def files_of(claims: Iterable[Mapping[str, Any]]) -> list[Path]:
    """The files of the user's own that claims are computed by."""
    return [Path(spec[FUNCTION]["file"]) for spec in claims if FUNCTION in spec]


def check_claims(
    where: str,
    claims: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, Any]],
    experiments: Mapping[str, Experiment],
) -> None:
    """Make sure that claims are about figures that are there, and that these can tell.

    Args:
        where: the file.
        claims: by name, each with its text and what its kind asks for.
        figures: of the study, by name.
        experiments: of the study, by name.

    Raises:
        UserError: names key, value and what is allowed.
    """
    for name, spec in claims.items():
        kind, key = kind_of(spec), f"claims.{name}"
        if name in figures:
            refuse(where, key, name, "names that no figure has")
        for figure in figures_of(spec):
            _check_figure(where, f"{key}.{kind}", figure, figures)
        shown = {name for figure in figures_of(spec) for name in figures[figure]["experiments"]}
        sizes = {m for name in shown for m in experiments[name].batch_sizes}
        if kind == "best_batch_size":
            _check_bounds(where, f"{key}.{kind}", spec[kind], sizes)
        if kind == FUNCTION:
            _check_function(where, f"{key}.{kind}", spec[kind])
        if kind == "accuracy_falls" and sum(m >= spec[kind].get("from", 1) for m in sizes) < 2:
            allowed = f"a number up to the last but one of {_listed(sizes)}"
            refuse(where, f"{key}.{kind}.from", spec[kind].get("from"), allowed)


def _check_figure(where: str, key: str, figure: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    judged = [name for name, spec in figures.items() if spec["kind"] not in UNJUDGED]
    if figure not in judged:
        allowed = ", ".join(judged) or "figures of accuracies; the study has none"
        refuse(where, key, figure, f"{allowed}{suggestion(figure, judged)}")


def _check_bounds(where: str, key: str, asked: Mapping[str, Any], sizes: Collection[int]) -> None:
    """There are batch sizes on both sides of what is claimed."""
    low, high = asked.get("at_least", 0), asked.get("at_most", float("inf"))
    inside = {m for m in sizes if low <= m <= high}
    if not inside or inside == set(sizes):
        allowed = f"at_least, at_most or both, with some of {_listed(sizes)} between them, and some not"
        refuse(where, key, {name: value for name, value in asked.items() if name != "figure"}, allowed)


def _check_function(where: str, key: str, asked: Mapping[str, Any]) -> None:
    """The file can be read, and defines the function; it is not run."""
    try:
        body = ast.parse(Path(asked["file"]).read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        refuse(where, f"{key}.file", asked["file"], f"a file of Python that can be read ({reason})")
    known = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    if asked["name"] not in known:
        there = f"{', '.join(known) or 'it has none'}{suggestion(asked['name'], known)}"
        refuse(where, f"{key}.name", asked["name"], f"a function of {asked['file']}: {there}")


def _listed(sizes: Collection[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
