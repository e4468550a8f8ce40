"""Lists the pictures of a folder by a table beside them, `metadata.csv`, as `imagefolder` of Hugging Face has it.

A column has the names of pictures, as paths below the table's folder, and others have the labels (`columns`). Pictures
and rows are one for one.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from smallbatch.core.errors import UserError
from smallbatch.data.array_checks import Named
from smallbatch.data.decoding import kind_of_non_image
from smallbatch.data.folder_listing import folded, folders, shown, some, text, walk
from smallbatch.data.image_folder_splits import ROLES, Pictures, refuse_shared, split_folders
from smallbatch.data.label_columns import ALLOWED, Columns, check_column, columns_of, divided, numbers_of

TABLE, FILES = "metadata.csv", "file_name"
"""Name of the table, and its column of pictures unless `keys` names another."""


def read(path: Path, unpacked: Path, settings: Mapping[str, Any], left_out: Counter[str]) -> Pictures:
    """The pictures of both splits, in the order of their rows.

    Args:
        path: the folder or archive, for messages.
        unpacked: the folder, or the folder into which the archive is unpacked.
        settings: the data set's.
        left_out: counts of skipped files by kind, updated here.

    Raises:
        UserError: a table, a column, a row or a picture is missing, there twice or not as it has to be.
        OSError: a folder cannot be read.
    """
    columns, root = columns_of(path, settings, FILES), _root(unpacked)
    files: dict[str, list[str]] = {}
    numbers: dict[str, Named] = {}
    for split, folder in _places(path, root, left_out).items():
        where = path / folder.relative_to(unpacked) / TABLE
        table = _table(where, folder / TABLE, columns)
        pictures = _pictures(where, folder, table[columns.images].to_pylist(), left_out)
        files[split] = [(folder.relative_to(root) / picture).as_posix() for picture in pictures]
        numbers[split] = numbers_of(where, split, table, columns)
    labels = divided(path, numbers, columns, pa.schema([]), settings)
    chosen = {split: [files[of][row] for row in rows] for split, (of, rows) in labels.rows.items()}
    refuse_shared(path, root, chosen["train"], chosen["test"])
    return Pictures(root, labels.names, chosen, labels.values)


def _root(folder: Path) -> Path:
    """The folder that holds a table, or folders: it may lie within others."""
    inner = folders(folder)
    stays = (folder / TABLE).is_file() or len(inner) != 1 or folded(inner[0].name) in ROLES
    return folder if stays else _root(inner[0])


def _places(path: Path, root: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The folders that hold the tables of `train` and `test`, or of `all`."""
    if (root / TABLE).is_file():
        if splits := [f"{shown(folder.name)}/" for folder in folders(root) if folded(folder.name) in ROLES]:
            raise UserError(
                f"{path}: {TABLE} beside {some(splits)}; allowed: one in each of train/ and test/ (or val/)"
            )
        return {"all": root}
    places = split_folders(path, root, left_out) or {"all": root}
    for split, folder in places.items():
        if not (folder / TABLE).is_file():
            where = f"{path}" if split == "all" else f"{path}: {shown(folder.name)}/"
            allowed = "one beside the pictures, or in each of train/ and test/ (or val/)"
            raise UserError(f"{where}: has no {TABLE}, which `keys` needs; allowed: {allowed}")
    return places


def _table(where: Path, file: Path, columns: Columns) -> pa.Table:
    """The columns of a table, checked for their types; names of pictures stay text."""
    convert = pa.csv.ConvertOptions(column_types={columns.images: pa.string()})
    try:
        table = pa.csv.read_csv(file, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{where}: damaged, or not values with commas in UTF-8 ({said})") from error
    check_column(where, table.schema, columns.images)
    for name in columns.labels:
        if table.schema.names.count(name) == 1:
            _refuse_text(where, name, table[name])
        check_column(where, table.schema, name, listed=columns.listed)
    return table.select([columns.images, *columns.labels])


def _refuse_text(where: Path, name: str, column: pa.ChunkedArray) -> None:
    """Refuse a column that is text for a value in it that is no number."""
    if not pa.types.is_string(column.type):
        return
    for row, value in enumerate(column.to_pylist()):
        try:
            float(value)
        except ValueError:
            raise UserError(
                f"{where}: {shown(name)}: has {shown(value)!r} in its row {row}; allowed: {ALLOWED}"
            ) from None


def _pictures(where: Path, folder: Path, names: list[str], left_out: Counter[str]) -> list[str]:
    """The picture of each row, as a path below the folder."""
    there: dict[str, str] = {}
    for file in walk(folder, left_out):
        if file.name == TABLE:
            continue
        if kind := kind_of_non_image(folder / file.name):
            left_out[kind] += 1
            continue
        other = there.setdefault(text(file.name), file.name)
        if other != file.name:
            both = f"two pictures are called {shown(text(file.name))!r}, in other encodings of its accents"
            raise UserError(f"{where}: {both}; allowed: names that differ otherwise")
    names = [unicodedata.normalize("NFC", name) for name in names]
    rows = Counter(names)
    for row, name in enumerate(names):
        if name not in there:
            raise UserError(f"{where}: row {row}: there is no picture {shown(name)!r}; allowed: paths below its folder")
        if rows[name] > 1:
            twice = np.flatnonzero([other == name for other in names])[:2].tolist()
            raise UserError(f"{where}: rows {twice[0]} and {twice[1]} are of {shown(name)}; allowed: a row for each")
    if extra := sorted(there.keys() - rows.keys()):
        raise UserError(f"{where}: has no row of {some(extra)}; allowed: a row for each picture")
    return [there[name] for name in names]
