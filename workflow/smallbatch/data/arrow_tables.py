"""Prepares images from parquet and arrow files, in which data sets of Hugging Face are kept: on its hub and on disk.

A column has each image's file, as `bytes` or as a struct with `bytes`; others have the labels (`columns`). They are
read by pyarrow alone, and no code that comes with a data set is run.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smallbatch.core.errors import UserError
from smallbatch.core.files import check_folder_writable, read_json
from smallbatch.data.decoding import BrokenImage, Picture, decoded_content
from smallbatch.data.folder_listing import shown, some, stat_digest
from smallbatch.data.image_folder import load, size_by_labels, write_loaded
from smallbatch.data.image_folder_splits import ROLES
from smallbatch.data.label_columns import (
    Columns,
    Labels,
    check_class_names,
    check_column,
    columns_of,
    divided,
    numbers_of,
)
from smallbatch.data.prepared import Meta
from smallbatch.data.public_datasets import DatasetInfo

SUFFIXES = (".parquet", ".arrow")
IMAGES = "image"
"""The column of images, unless `keys` names another."""

STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that `datasets.save_to_disk` writes: beside the tables of a split, and beside the folders of several."""


class Part(NamedTuple):
    """The images of one split.

    name: train or test.
    images: the column of images.
    rows: the rows of it that belong to the split, [n] int64.
    labels: theirs, [n] int64, or targets [n, outputs] float32.
    """

    name: str
    images: pa.ChunkedArray
    rows: np.ndarray
    labels: np.ndarray


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the images as prepared arrays.

    Raises:
        UserError: a file, a column or an image is missing, broken or of another kind than is needed.
    """
    path, watched = Path(settings["path"]).expanduser(), stat_digest(settings["path"])
    found, labels = _read(path, settings)
    parts = [
        Part(split, found[of][columns_of(path, settings, IMAGES).images], rows, labels.values[split])
        for split, (of, rows) in labels.rows.items()
    ]
    check_folder_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        loaded = [_loaded(path, part, labels.names, settings, Path(scratch)) for part in parts]
        return write_loaded(label, settings, folder, path, labels.names, loaded, watched)


def size(settings: dict[str, Any]) -> DatasetInfo:
    """Make sure that all but decoding the images succeeds, and return the size; raises as `prepare`."""
    _, labels = _read(Path(settings["path"]).expanduser(), settings)
    return size_by_labels(settings, labels.names, labels.values)


def _loaded(path: Path, part: Part, classes: list[str], settings: dict[str, Any], scratch: Path) -> Any:
    names = [f"image {row} ({part.name})" for row in part.rows]

    def picture(number: int, size: int, mode: str, white: int) -> Picture:
        value = part.images[int(part.rows[number])].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise BrokenImage("it is not in the file, which at most names it")
        return decoded_content(content, size, mode, white)

    return load(path, part.name, classes, names, part.labels, picture, settings, scratch)


def _read(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, pa.Table], Labels]:
    """The table of each split, `train` and `test` or `all`, and the labels of training and test images."""
    columns = columns_of(path, settings, IMAGES)
    tables = {split: {file: _table(file, columns) for file in files} for split, files in _files(path).items()}
    check_class_names({file: table.schema for of in tables.values() for file, table in of.items()}, columns.labels)
    with _reading(path):
        found = {split: pa.concat_tables(of.values()) for split, of in tables.items()}
    numbers = {split: numbers_of(path, split, table, columns) for split, table in found.items()}
    return found, divided(path, numbers, columns, next(iter(found.values())).schema, settings)


def _files(path: Path) -> dict[str, list[Path]]:
    """The files of the splits `train` and `test`, or of `all`."""
    if path.is_file():
        return {"all": [path]}
    if (path / SPLITS).is_file():
        named = {name: _saved(path / name) for name in _listed(path / SPLITS, "splits")}
    elif (path / STATE).is_file():
        return {"all": _saved(path)}
    else:
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"{path}: has no file {' or '.join(SUFFIXES)}; allowed: one, or a folder with some")
        named = {}
        for file in files:
            named.setdefault(_split_of(file.relative_to(path)), []).append(file)
        if len(named) == 1 and not named.keys() & ROLES.keys():
            return {"all": files}
    return _roles(path, named)


def _split_of(file: Path) -> str:
    """The split that a file is of: by a folder that it lies in, as in `train/0000.parquet`, else by its name."""
    named = [folder for folder in file.parts[:-1] if folder.lower() in ROLES]
    return named[-1] if named else file.stem.partition("-")[0]


def _roles(path: Path, named: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The files of `train` and `test`, by the usual names of splits; validation stands for test where that lacks."""
    roles: dict[str, list[Path]] = {}
    for name, files in named.items():
        role = ROLES.get(name.lower())
        if role is None or role in roles:
            raise UserError(f"{path}: splits {some(sorted(named))}; allowed: one each of train, and test or validation")
        roles[role] = files
    if "train" not in roles:
        raise UserError(f"{path}: splits {some(sorted(named))}; allowed: train, and test or validation")
    held_out = roles.get("test", roles.get("val"))
    return {"train": roles["train"], "test": held_out} if held_out else {"all": roles["train"]}


def _saved(folder: Path) -> list[Path]:
    """The files of a split that `save_to_disk` has written; others in its folder are caches.

    Raises:
        UserError: rows were left out or sorted, and an early version has kept all, and a list of those that count.
    """
    files = [folder / Path(entry["filename"]).name for entry in _listed(folder / STATE, "_data_files")]
    if chosen := [key for key, value in read_json(folder / STATE).items() if key.startswith("_indices") and value]:
        said = f"{chosen[0]}: rows are chosen by a list of them"
        raise UserError(f"{folder / STATE}: {said}; allowed: none, as after flatten_indices() and save_to_disk()")
    return files


def _listed(file: Path, key: str) -> list[Any]:
    values = read_json(file)
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{file}: lists no {key}; allowed: what `save_to_disk` of Hugging Face writes")
    return listed


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # of which most are ValueErrors, too
        raise UserError(f"{file}: damaged or no such file ({' '.join(str(error).split())[:300]})") from error


def _table(file: Path, columns: Columns) -> pa.Table:
    """The columns of a file, checked for their types."""
    parquet = file.suffix.lower() == ".parquet"
    with _reading(file):
        schema = pq.read_schema(file) if parquet else _arrow(file).schema
    check_column(file, schema, columns.images)
    _check_files(file, columns.images, schema.field(columns.images).type)
    for name in columns.labels:
        check_column(file, schema, name, listed=columns.listed)
    names = [columns.images, *columns.labels]
    with _reading(file):
        return pq.read_table(file, columns=names) if parquet else _arrow(file).select(names)


def _arrow(file: Path) -> pa.Table:
    """An arrow file, of either kind, mapped."""
    source = pa.memory_map(str(file))
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


def _check_files(file: Path, name: str, kind: pa.DataType) -> None:
    """Check that a column has the type of files of images."""
    names = [kind.field(place).name for place in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    content = kind.field("bytes").type if "bytes" in names else kind
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        allowed = "files of images, as bytes or struct<bytes, path>"
        raise UserError(f"{file}: column {shown(name)}: {str(kind)[:100]}; allowed: {allowed}")
