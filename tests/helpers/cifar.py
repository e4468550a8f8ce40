"""Small archives in the form of CIFAR-10's and CIFAR-100's."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

NAMES = {"cifar10": [f"class {i}".encode() for i in range(10)], "cifar100": [f"fine {i}".encode() for i in range(100)]}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the public archives."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(value: Any) -> bytes:
    """Pickle as Python 2 and the NumPy of its time."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def python3(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def rows(start: int, count: int) -> np.ndarray:
    """Images [count, 3072] that all differ, and differ from plane to plane and from place to place."""
    return np.random.default_rng(start).integers(0, 256, (count, 3072), np.uint8)


def cifar10_contents(per_batch: int = 3) -> dict[str, Any]:
    """What the members of a small CIFAR-10 archive hold."""
    members = {}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [(number + place) % 10 for place in range(per_batch)]
        members[name] = {b"data": rows(number, per_batch), b"labels": labels, b"batch_label": b"a batch"}
    members["batches.meta"] = {b"label_names": NAMES["cifar10"], b"num_vis": 3072}
    return members


def cifar100_contents() -> dict[str, Any]:
    members: dict[str, Any] = {
        name: {b"data": rows(number, 4), b"fine_labels": [99, 0, 50, 7], b"coarse_labels": [1, 2, 3, 4]}
        for number, name in enumerate(["train", "test"])
    }
    return members | {"meta": {b"fine_label_names": NAMES["cifar100"], b"coarse_label_names": [b"coarse"] * 20}}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def archive(folder: Path, contents: dict[str, Any], source: str = "cifar10", dump: Callable = python3) -> Path:
    """A .tar.gz of these contents, pickled unless they are bytes already."""
    path = folder / "small.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        add(tar, f"{FOLDERS[source]}/readme.html", b"hello")
        for name, content in contents.items():
            add(tar, f"{FOLDERS[source]}/{name}", content if isinstance(content, bytes) else dump(content))
    return path
