"""What a function of the user's own says of a claim: run twice, on copies, and checked before it is believed."""

import copy
import os
import runpy
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.statistics import SAMPLES
from smallbatch.analysis.verdicts import UNITS, Comparison
from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest

_LIBRARY = str(Path(__file__).parents[3])
_TAKEN_AS_GIVEN = {
    sys.prefix,
    sys.base_prefix,
    *sysconfig.get_paths().values(),
    _LIBRARY,
    "/proc",
    "/sys",
    "/dev",
    "/etc",
}
"""Folders of what is installed, and of what the system tells."""


def check_unchanged(files: Mapping[str, str]) -> None:
    """Make sure that files of functions are as they were when the call began; its tables are noted as made by these.

    Args:
        files: path -> `core.files.files_digest` of it.

    Raises:
        UserError: names one that was edited since.
    """
    for file, then in files.items():
        if files_digest(Path(file)) != then:
            raise UserError(f"{file}: edited since this call began; the next one judges by the file as it is then")


def comparisons_of(file: Path, name: str, t: Thresholds, *grids: Grid) -> Iterator[Comparison]:
    """The comparisons that a function yields.

    Args:
        file: that defines it.
        name: of the function; it takes what predicates take.
        t: thresholds.
        grids: of its figures.

    Raises:
        UserError: it fails, reads other files, yields something else, or other numbers each time.
    """
    where = f"{file}: {name}"
    first, second = (_called(where, file, name, t, grids) for _ in range(2))
    if list(map(_content, first)) != list(map(_content, second)):
        raise UserError(f"{where}: it yields other comparisons each time; allowed: what its arguments alone decide")
    yield from first


def _called(where: str, file: Path, name: str, t: Thresholds, grids: tuple[Grid, ...]) -> list[Comparison]:
    try:
        with _files_read() as read:
            yielded = list(runpy.run_path(str(file))[name](MappingProxyType(dict(t)), *copy.deepcopy(grids)))
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or "without a word"
        raise UserError(f"{where}: it fails ({type(error).__name__}: {text[:300]})") from error
    others = sorted(path for path in read - {str(file.resolve())} if not _is_taken_as_given(Path(path)))
    if others:
        raise UserError(f"{where}: it reads {others[0]}, whose changes nobody would notice; allowed: this file alone")
    for one in yielded:
        if problem := _problem(one):
            raise UserError(f"{where}: it yields {problem}")
    return yielded


def _is_taken_as_given(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _TAKEN_AS_GIVEN)


def _problem(one: Any) -> str | None:
    """What is wrong with something that a function has yielded, and what is allowed."""
    if not isinstance(one, Comparison):
        return f"a {type(one).__name__}; allowed: smallbatch.analysis.verdicts.Comparison"
    if not isinstance(one.sentence, str) or not one.sentence.isprintable():
        return f"the sentence {one.sentence!r}; allowed: a line of text"
    if not isinstance(one.effect, np.ndarray) or one.effect.shape != (1 + SAMPLES,) or one.effect.dtype.kind != "f":
        form = f"{one.effect.dtype} {one.effect.shape}" if isinstance(one.effect, np.ndarray) else repr(one.effect)[:50]
        return f"the effect {form}; allowed: an array of {1 + SAMPLES} floats, as Grid has samples"
    bounds = (one.at_least, one.at_most)
    if not all(isinstance(bound, int | float) for bound in bounds) or not one.at_least < one.at_most:
        return f"at_least {one.at_least!r} and at_most {one.at_most!r}; allowed: two numbers, the first below the other"
    if np.isinf(bounds).all():
        return "neither at_least nor at_most; allowed: one of them, or both"
    return None if one.unit in UNITS else f"the unit {one.unit!r}; allowed: {', '.join(UNITS)}"


def _content(one: Comparison) -> tuple[object, ...]:
    return one.sentence, one.effect.tobytes(), one.at_least, one.at_most, one.unit


_listening: list[set[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str | bytes):
        _listening[-1].add(os.path.realpath(os.fsdecode(arguments[0])))


@contextmanager
def _files_read() -> Iterator[set[str]]:
    """Paths of the files that are opened while the block runs, but for those that compiled code opens by itself."""
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    _listening.append(set())
    try:
        yield _listening[-1]
    finally:
        _listening.pop()


_hooked: list[bool] = []
