"""Prepares images from parquet and arrow files, in which data sets of Hugging Face are kept: on its hub and on disk.

A column has each image's file, as `bytes` or as a struct with `bytes`; another one has the labels, integers. They are
read by pyarrow alone, and no code that comes with a data set is run.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import check_folder_writable, read_json
from smallbatch.data.array_checks import Named, class_count, labels_of
from smallbatch.data.decoding import BrokenImage, Picture, decoded_content
from smallbatch.data.image_folder import load, write_loaded
from smallbatch.data.layout import ROLES
from smallbatch.data.prepared import Meta
from smallbatch.data.splits import rows_of_splits
from smallbatch.data.tree import shown, some, stat_digest

SUFFIXES = (".parquet", ".arrow")
STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that `datasets.save_to_disk` writes: beside the tables of a split, and beside the folders of several."""


class Part(NamedTuple):
    """The images of one split.

    name: train or test.
    images: the column of images.
    rows: the rows of it that belong to the split, [n] int64.
    labels: their labels, [n] int64.
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
    classes, parts = _read(path, settings)
    check_folder_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        loaded = [_loaded(path, part, classes, settings, Path(scratch)) for part in parts]
        return write_loaded(label, settings, folder, path, classes, loaded, watched)


def check_layout(settings: dict[str, Any]) -> None:
    """Make sure that all but decoding the images succeeds; raises as `prepare`."""
    _read(Path(settings["path"]).expanduser(), settings)


def _loaded(path: Path, part: Part, classes: list[str], settings: dict[str, Any], scratch: Path) -> Any:
    names = [f"image {row} ({part.name})" for row in part.rows]

    def picture(number: int, size: int, mode: str, white: int) -> Picture:
        value = part.images[int(part.rows[number])].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise BrokenImage("it is not in the file, which at most names it")
        return decoded_content(content, size, mode, white)

    return load(path, part.name, classes, names, part.labels, picture, settings, scratch)


def _read(path: Path, settings: Mapping[str, Any]) -> tuple[list[str], list[Part]]:
    """The names of the classes, and the training and test images."""
    names = {"images": "image", "labels": "label"} | settings.get("keys", {})
    if extra := names.keys() - {"images", "labels"}:
        refuse(path, f"keys.{min(extra)}", names[min(extra)], "images and labels, the columns of them")
    found = {split: _table(path, files, names) for split, files in _files(path).items()}
    first, whole = next(iter(found.items()))
    labels = {split: _labels(path, split, table, names["labels"]) for split, table in found.items()}
    classes = _class_names(whole.schema, names["labels"], class_count(path, names["labels"], labels[first]))
    chosen = rows_of_splits(path, names["labels"], labels, classes, settings)
    parts = [Part(split, found[of][names["images"]], rows, labels[of][rows]) for split, (of, rows) in chosen.items()]
    return classes, parts


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
            named.setdefault(file.stem.partition("-")[0], []).append(file)
        if len(named) == 1 and not named.keys() & ROLES.keys():
            return {"all": files}
    return _roles(path, named)


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
    """The files of a split that `save_to_disk` has written; others in its folder are caches."""
    return [folder / Path(entry["filename"]).name for entry in _listed(folder / STATE, "_data_files")]


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


def _table(path: Path, files: list[Path], names: Mapping[str, str]) -> pa.Table:
    """Both columns of some files, checked for their types."""
    tables = []
    for file in files:
        with _reading(file):
            schema = pq.read_schema(file) if file.suffix.lower() == ".parquet" else _arrow(file).schema
        for role, name in names.items():
            if name not in schema.names:
                raise UserError(f"{file}: has no column {shown(name)}; it has {some(schema.names)}; `keys` says which")
            if problem := _problem(role, schema.field(name).type):
                raise UserError(f"{file}: column {shown(name)}: {problem}")
        with _reading(file):
            columns = list(names.values())
            parquet = file.suffix.lower() == ".parquet"
            tables.append(pq.read_table(file, columns=columns) if parquet else _arrow(file).select(columns))
    with _reading(path):
        return pa.concat_tables(tables)


def _arrow(file: Path) -> pa.Table:
    """An arrow file, of either kind, mapped."""
    source = pa.memory_map(str(file))
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


def _problem(role: str, kind: pa.DataType) -> str | None:
    """What is wrong with the type of a column, and what is allowed."""
    if role == "labels":
        return None if pa.types.is_integer(kind) else f"{kind}; allowed: integers, the classes"
    names = [kind.field(place).name for place in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    content = kind.field("bytes").type if "bytes" in names else kind
    binary = pa.types.is_binary(content) or pa.types.is_large_binary(content)
    return None if binary else f"{str(kind)[:100]}; allowed: files of images, as bytes or struct<bytes, path>"


def _labels(path: Path, split: str, table: pa.Table, name: str) -> np.ndarray:
    where = name if split == "all" else f"{name} ({split})"
    column = table[name]
    if not len(column):
        raise UserError(f"{path}: {where}: has no rows; allowed: some images")
    if column.null_count:
        raise UserError(
            f"{path}: {where}: {column.null_count} of {len(column)} are missing; allowed: one for each image"
        )
    labels = column.to_numpy()
    return labels_of(path, Named(where, labels), Named("images", labels))


def _class_names(schema: pa.Schema, label: str, count: int) -> list[str]:
    """The names that Hugging Face keeps in a table's schema, else numbers."""
    numbers = list(map(str, range(count)))
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = list(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return numbers
    return names[:count] if len(names) >= count and len(set(names)) == len(names) else numbers
