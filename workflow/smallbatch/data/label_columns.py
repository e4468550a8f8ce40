"""Labels from columns of tables, by the rules that arrays of labels have: integers are classes, floats, booleans and
several numbers of an image are targets. Columns that are given as a list are outputs, whatever their type."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smallbatch.core.errors import UserError, refuse
from smallbatch.data.array_checks import (
    Named,
    check_alike,
    check_numbers_vary,
    class_count,
    finite_single,
    labels_or_targets,
)
from smallbatch.data.folder_listing import shown, some
from smallbatch.data.splits import split_indices

ALLOWED = "integers, the classes; or, as targets, floats, booleans or lists of numbers, all of one length"


class Columns(NamedTuple):
    """Names of columns.

    images: the one of images.
    labels: those of labels.
    listed: whether these were given as a list, and so each is an output.
    """

    images: str
    labels: list[str]
    listed: bool


class Labels(NamedTuple):
    """The labels of a data set.

    names: of its classes, or of outputs.
    rows: split, `train` or `test` -> the given split that it is of, and its rows of that, [n] int64.
    values: split -> the labels of its rows, [n] int64, or targets [n, outputs] float32.
    """

    names: list[str]
    rows: dict[str, tuple[str, np.ndarray]]
    values: dict[str, np.ndarray]


def columns_of(path: Path, settings: Mapping[str, Any], images: str) -> Columns:
    """The columns that `keys` names; the one of images is called `images` and the one of labels `label` unless it does.

    Raises:
        UserError: `keys` has others.
    """
    names = {"images": images, "labels": "label"} | settings.get("keys", {})
    if extra := names.keys() - {"images", "labels"}:
        refuse(path, f"keys.{min(extra)}", names[min(extra)], "images and labels, the columns of them")
    labels = names["labels"]
    listed = not isinstance(labels, str)
    return Columns(names["images"], list(labels) if listed else [labels], listed)


def check_column(file: Path, schema: pa.Schema, name: str, listed: bool | None = None) -> None:
    """Check that a table has a column.

    Args:
        file: of the table.
        schema: the table's.
        name: the column's.
        listed: of a column of labels, as in `Columns`; None: it is of something else.

    Raises:
        UserError: it is not there, is there twice, or has no numbers that labels can be.
    """
    if name not in schema.names:
        raise UserError(f"{file}: has no column {shown(name)}; it has {some(schema.names)}; `keys` says which")
    if schema.names.count(name) > 1:
        raise UserError(f"{file}: column {shown(name)}: is there {schema.names.count(name)} times; allowed: one")
    if listed is None:
        return
    kind = schema.field(name).type
    single = _is_number(kind)
    if not single and not (_is_list(kind) and _is_number(kind.value_type)):
        raise UserError(f"{file}: column {shown(name)}: {str(kind)[:100]}; allowed: {ALLOWED}")
    if listed and not single:
        raise UserError(f"{file}: column {shown(name)}: {str(kind)[:100]}; allowed: numbers, in a list of columns")


def _is_number(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)  # null: all are missing
    return any(is_one(kind) for is_one in kinds)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def numbers_of(path: Path, split: str, table: pa.Table, columns: Columns) -> Named:
    """The columns of labels as an array [n] or [n, outputs].

    Args:
        path: where the table lies, for messages.
        split: its split, `train`, `test` or `all`.
        table: has the columns of labels, checked by `check_column`.
        columns: their names.

    Raises:
        UserError: a number is missing or not finite, there are none, or lists differ in length.
    """
    names = [shown(name) if split == "all" else f"{shown(name)} ({split})" for name in columns.labels]
    arrays = [_array(path, name, table[column]) for name, column in zip(names, columns.labels, strict=True)]
    return Named(", ".join(names), np.column_stack(arrays).astype(np.float64) if columns.listed else arrays[0])


def _array(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    if not len(column):
        raise UserError(f"{path}: {name}: has no rows; allowed: some images")
    _check_complete(path, name, column, len(column))
    shape: tuple[int, ...] = (len(column),)
    if _is_list(column.type):
        shape, column = (len(column), _length(path, name, column)), pc.list_flatten(column)
        _check_complete(path, name, column, shape[0])
    array: np.ndarray = column.to_numpy().reshape(shape)
    if array.dtype.kind == "f":
        finite_single(path, name, array)  # by the column's name, before it is one of several
    return array


def _check_complete(path: Path, name: str, column: pa.ChunkedArray, rows: int) -> None:
    if column.null_count:
        first = pc.index(column.is_null(), True).as_py() * rows // len(column)
        what = f"{column.null_count} of {len(column)} are missing, the first in row {first}"
        raise UserError(f"{path}: {name}: {what}; allowed: one for each image")


def _length(path: Path, name: str, column: pa.ChunkedArray) -> int:
    """The length that all lists have."""
    lengths = pc.list_value_length(column).to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    if other.size:
        both = f"{lengths[other[0]]} numbers in its row {other[0]}, and {lengths[0]} in row 0"
        raise UserError(f"{path}: {name}: {both}; allowed: as many in each, such as a 0 or 1 for each output")
    if not lengths[0]:
        raise UserError(f"{path}: {name}: empty lists; allowed: a number or more in each")
    return int(lengths[0])


def divided(
    path: Path, given: Mapping[str, Named], columns: Columns, schema: pa.Schema, settings: Mapping[str, Any]
) -> Labels:
    """The labels of the training and of the test split.

    Args:
        path: where the tables lie, for messages.
        given: the numbers of the splits `train` and `test`, or of `all`, which `test_fraction` divides.
        columns: what they are called.
        schema: of the table of training images, in which Hugging Face keeps the names of classes.
        settings: the data set's.

    Raises:
        UserError: they are neither classes nor targets, or `test_fraction` is missing or not applicable.
    """
    labels = {split: labels_or_targets(path, of, Named("images", of.array)) for split, of in given.items()}
    check_alike(path, list(given.values()), list(labels.values()))
    first, found = next(iter(labels.items()))
    if found.ndim == 2:
        names = _output_names(columns, given[first].array)
    else:
        names = _class_names(schema, columns.labels[0], class_count(path, given[first].name, found))
    rows = split_indices(path, ", ".join(columns.labels), labels, names, settings)
    values = {split: labels[of][chosen] for split, (of, chosen) in rows.items()}
    if found.ndim == 2:
        check_numbers_vary(path, [given[of].name for of, _ in rows.values()], names, list(values.values()))
    return Labels(names, rows, values)


def _output_names(columns: Columns, array: np.ndarray) -> list[str]:
    """Outputs are called as their columns, and those of a column of lists by their numbers."""
    return columns.labels if array.ndim == 1 or columns.listed else list(map(str, range(array.shape[1])))


def check_class_names(schemas: Mapping[Path, pa.Schema], labels: Sequence[str]) -> None:
    """Check that a number is the same class in all tables: Hugging Face keeps names of classes in each.

    Args:
        schemas: file -> the schema of its table.
        labels: columns of labels.

    Raises:
        UserError: two tables name a class otherwise.
    """
    for label in labels:
        known = {file: names for file, schema in schemas.items() if (names := _names_kept(schema, label))}
        for file, names in list(known.items())[1:]:
            first, expected = next(iter(known.items()))
            for number, (one, other) in enumerate(zip(names, expected, strict=False)):
                if one != other:
                    both = f"class {number} is {shown(one)}, and {shown(other)} in {first}"
                    raise UserError(f"{file}: column {shown(label)}: {both}; allowed: classes of one order in all")


def _class_names(schema: pa.Schema, label: str, count: int) -> list[str]:
    """The names that Hugging Face keeps in a table's schema, else numbers."""
    names = _names_kept(schema, label)
    return names[:count] if len(names) >= count and len(set(names)) == len(names) else list(map(str, range(count)))


def _names_kept(schema: pa.Schema, label: str) -> list[str]:
    """The names of classes that Hugging Face keeps in a table's schema; none if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return []
