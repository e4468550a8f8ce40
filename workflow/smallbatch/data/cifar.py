"""CIFAR-10 and CIFAR-100 from their "python version" archives: 3x32x32 pixels, 10 and 100 classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/.
The archives hold pickles, a format that can run any code. Here none is run: a pickle that names any global other than
the few of the original's arrays is refused, and these are replaced by dummies that only store the pickled values.
"""

import io
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.data.archives import read_members
from smallbatch.data.download import fetch, md5_of
from smallbatch.data.prepared import Meta, Split, write
from smallbatch.data.public_datasets import ORIGINAL_MD5

SITE = "https://www.cs.toronto.edu/~kriz"
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Name and contents of an archive.

    train, test, meta: its members.
    labels, names: keys of a batch's labels and of the class names in `meta`.
    classes: number of classes.
    """

    file: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes
    classes: int


LAYOUTS = {
    "cifar10": Layout(
        file="cifar-10-python.tar.gz",
        train=tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        test="cifar-10-batches-py/test_batch",
        meta="cifar-10-batches-py/batches.meta",
        labels=b"labels",
        names=b"label_names",
        classes=10,
    ),
    "cifar100": Layout(
        file="cifar-100-python.tar.gz",
        train=("cifar-100-python/train",),
        test="cifar-100-python/test",
        meta="cifar-100-python/meta",
        labels=b"fine_labels",
        names=b"fine_label_names",
        classes=100,
    ),
}


def prepare(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> Meta:
    """Write CIFAR-10 or CIFAR-100 as prepared arrays; download the archive into `downloads` unless one is given.

    Raises:
        UserError: the archive is unavailable, has another md5, is damaged or holds something else.
    """
    layout = LAYOUTS[settings["source"]]
    archive = _archive(layout, settings, downloads)
    members = read_members(archive, (*layout.train, layout.test, layout.meta))
    meta = f"{archive}: {layout.meta}"
    classes = _class_names(meta, _unpickled(meta, members[layout.meta]), layout)
    batches = {name: read_batch(f"{archive}: {name}", members[name], layout) for name in (*layout.train, layout.test)}
    train = _joined(batches[name] for name in layout.train)
    return write(folder, label, classes, train, batches[layout.test], settings=settings)


def _archive(layout: Layout, settings: dict[str, Any], downloads: Path) -> Path:
    """The archive, given or downloaded, after a check of its md5."""
    source = settings["source"]
    expected = settings.get("md5", ORIGINAL_MD5[source]).lower()
    if "archive" not in settings:
        return fetch(f"{SITE}/{layout.file}", downloads / layout.file, expected)
    path = Path(settings["archive"]).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; allowed: a {layout.file}, or no `archive`, to download it")
    actual = md5_of(path)
    if actual != expected:
        raise UserError(f"{path}: md5 is {actual}, expected {expected}; the file is damaged or not this {source}")
    return path


class _Array:
    """Replaces `numpy.ndarray` in a pickle and stores the state that the array would get."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype:
    """Replaces `numpy.dtype` in a pickle and stores its name; the byte order is irrelevant for single bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    """Replaces numpy's function that creates empty arrays, which are then filled by their state."""
    return _Array()


def _encode(text: str, codec: str) -> bytes:
    """The function by which Python 3 pickles bytes so that Python 2 can read them."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"codec {codec!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]


def _unpickled(where: str, data: bytes) -> dict[Any, Any]:
    """The dictionary in a pickle of plain data and arrays; arrays are `_Array`s."""
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a malicious pickle can make its reader raise any exception
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: refused, not a pickle of plain data and arrays ({reason})") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}, expected a dictionary")
    return content


def _pixels(where: str, value: Any) -> np.ndarray:
    """Images [n, 3, 32, 32] uint8 from a pickled array [n, 3072] of planes R, G, B."""
    match value:
        case _Array(state=(1, (int(count), int(width)), _Dtype(name="u1" | b"u1"), fortran, bytes(data))):
            if width == PIXELS and count > 0 and len(data) == count * width:
                rows = np.frombuffer(data, np.uint8).reshape((count, width), order="F" if fortran else "C")
                return np.ascontiguousarray(rows).reshape(count, *SHAPE)
            raise UserError(
                f"{where}: data has shape {(count, width)} in {len(data)} bytes, expected [n, {PIXELS}], n > 0"
            )
    raise UserError(f"{where}: data is not an array [n, {PIXELS}] of uint8")


def read_batch(where: str, data: bytes, layout: Layout) -> Split[np.ndarray]:
    """Images and labels of one batch file.

    Args:
        where: origin of the data, for error messages.
        data: content of the file.
        layout: layout of its archive.

    Raises:
        UserError: the file is not a pickle of plain data and arrays, or holds something else.
    """
    content = _unpickled(where, data)
    images = _pixels(where, content.get(b"data"))
    key = layout.labels.decode()
    labels = content.get(layout.labels)
    if not isinstance(labels, list) or len(labels) != len(images):
        actual = f"{len(labels)} of them" if isinstance(labels, list) else type(labels).__name__
        raise UserError(f"{where}: {key}: found {actual}, expected a list of {len(images)}, one for each image")
    for label in labels:
        if type(label) is not int or not 0 <= label < layout.classes:
            raise UserError(f"{where}: {key}: found {label!r}, expected whole numbers from 0 to {layout.classes - 1}")
    return Split(images, np.array(labels, np.int64))


def _class_names(where: str, content: dict[Any, Any], layout: Layout) -> list[str]:
    """The class names, in the order of their labels."""
    names = content.get(layout.names)
    if not isinstance(names, list) or not all(isinstance(name, bytes) and name.isascii() for name in names):
        raise UserError(f"{where}: {layout.names.decode()} is not a list of names")
    if len(set(names)) != len(names) or len(names) != layout.classes:
        raise UserError(
            f"{where}: {layout.names.decode()}: found {len(names)}, expected {layout.classes} different ones"
        )
    return [name.decode("ascii") for name in names]


def _joined(batches: Iterable[Split[np.ndarray]]) -> Split[np.ndarray]:
    """Several batches as one split, in the given order."""
    batches = list(batches)
    images = np.concatenate([batch.images for batch in batches])
    return Split(images, np.concatenate([batch.labels for batch in batches]))
