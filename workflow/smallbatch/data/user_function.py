"""Prepares what a function of the user's own returns: training and test images with their labels."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest
from smallbatch.data.array_checks import SPLIT, Named, Own, checked, write_own
from smallbatch.data.folder_listing import shown
from smallbatch.data.prepared import Meta
from smallbatch.study.user_function_checks import check_function

RETURNED = "four arrays: training images, training labels, test images, test labels"


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write what the function returns as prepared arrays.

    Raises:
        UserError: the function fails, or returns something else than arrays that can be prepared.
    """
    watched = content_digest(settings)
    return write_own(label, settings, folder, Path(settings["path"]), read(settings), watched)


def read(settings: dict[str, Any]) -> Own:
    """Call the function and check what it returns; raises as `prepare`."""
    path, name = Path(settings["path"]).expanduser(), settings["function"]
    check_function(path, ("path", "function"), settings["path"], name, 0, "a function without arguments")
    where = Path(f"{path}: {name}")
    given = _returned(where, path, name)
    named = dict(zip(SPLIT, given, strict=True))
    _check_columns(where, named)
    return checked(where, {role: _array(where, role, array) for role, array in named.items()}, settings)


def _check_columns(where: Path, given: Mapping[str, Any]) -> None:
    """Check that tables of pandas have the same columns in both splits, as numpy goes by their order alone."""
    for train, test in (SPLIT[::2], SPLIT[1::2]):
        columns = [list(getattr(given[role], "columns", [])) for role in (train, test)]
        others = [number for number, (one, other) in enumerate(zip(*columns, strict=False)) if one != other]
        if others:
            one, other = (shown(str(of[others[0]])) for of in columns)
            both = f"column {others[0]} is {other}, and {one} in {train}"
            raise UserError(f"{where}: {test}: {both}; allowed: the same columns in one order")


def _array(where: Path, role: str, given: Any) -> Named:
    if isinstance(given, np.ma.MaskedArray) and (masked := int(np.sum(given.mask))):
        raise UserError(f"{where}: {role}: {masked} values are masked; allowed: a number for each")
    try:
        return Named(role, np.asarray(given))
    except (TypeError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{where}: {role}: numpy cannot read it ({text[:300]}); allowed: {RETURNED}") from error


def _returned(where: Path, path: Path, name: str) -> "list[np.ndarray] | tuple[np.ndarray, ...]":
    try:
        returned = runpy.run_path(str(path))[name]()
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or "without a word"
        raise UserError(f"{where}: it fails ({type(error).__name__}: {text[:300]})") from error
    if not isinstance(returned, tuple | list) or len(returned) != len(SPLIT):
        count = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise UserError(f"{where}: it returns a {type(returned).__name__}{count}; allowed: {RETURNED}")
    for array in returned:
        if not hasattr(array, "__array__"):
            raise UserError(f"{where}: it returns a {type(array).__name__} among its four; allowed: {RETURNED}")
    return returned


def content_digest(settings: dict[str, Any]) -> str | None:
    """A digest of the function's file by its content, as of the file of a model; None if it cannot be read."""
    try:
        return files_digest(Path(settings["path"]).expanduser())
    except (OSError, RuntimeError, ValueError):
        return None
