"""Prepared data: memory-mapped arrays and what is known of them, the one form in which training sees data.

Photos of many sizes stay where they lie: in the place of pixels stands an index of them (`smallbatch.data.photos`).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from smallbatch.errors import UserError
from smallbatch.files import atomic, write_json

if TYPE_CHECKING:
    from smallbatch.data.photos import Photos

SPLITS = ("train", "test")
ARRAYS = tuple(f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels"))
META = "meta.json"

CHUNK_VALUES = 1 << 22
"""Pixel values that statistics take at once, to bound memory."""


@dataclass(frozen=True)
class Meta:
    """What is known of a prepared data set.

    label: the name that figures and run folders show.
    classes: class names; a class's label is its place here.
    shape: channels, height, width.
    mean, std: of each channel over the training split, in units of pixel value / 255.
    train, test: number of images.
    fingerprint: SHA-256 over both splits' arrays and the class names, in hexadecimal; of photos over their bytes.
    photos: the folder that photos are read from; none where the images are arrays.
    """

    label: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: int
    test: int
    fingerprint: str
    photos: str | None = None


@dataclass(frozen=True)
class Split:
    """Images [n, channels, height, width] uint8, or photos, and labels [n] int64."""

    images: "np.ndarray | Photos"
    labels: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: both splits, memory-mapped, and what is known of them."""

    meta: Meta
    train: Split
    test: Split


def write(folder: Path, label: str, classes: Iterable[str], train: Split, test: Split) -> Meta:
    """Write a data set as prepared arrays into `folder`."""
    classes = tuple(classes)
    mean, std = channel_statistics(train.images)
    meta = Meta(
        label=label,
        classes=classes,
        shape=train.images.shape[1:],
        mean=mean,
        std=std,
        train=len(train.labels),
        test=len(test.labels),
        fingerprint=fingerprint(classes, train, test),
    )
    save(folder, meta, train, test)
    return meta


def save(folder: Path, meta: Meta, train: Split, test: Split) -> None:
    """Write both splits, of photos their index, into `folder`; `meta.json` comes last and says that all is there."""
    (folder / META).unlink(missing_ok=True)  # it must not vouch for arrays that are being replaced
    for name, split in zip(SPLITS, (train, test), strict=True):
        for kind in ("images", "labels"):
            with atomic(folder / f"{name}_{kind}.npy") as file:
                _save(file, getattr(split, kind))
    write_json(folder / META, {key: value for key, value in asdict(meta).items() if value is not None})


def _save(file: BinaryIO, array: np.ndarray) -> None:
    """Write a .npy file in parts: numpy's own writer does not say that a disk is full."""
    np.lib.format.write_array_header_1_0(
        file, np.lib.format.header_data_from_array_1_0(array[:0]) | {"shape": array.shape}
    )
    for start in range(0, len(array), 4096):
        file.write(np.ascontiguousarray(array[start : start + 4096]).tobytes())


def read_meta(path: Path) -> Meta:
    """Read a `meta.json`.

    Raises:
        UserError: it is damaged or not one of ours.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        return Meta(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; `snakemake datasets` prepares the data set") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete the folder and prepare the data set again") from error


def read(folder: Path) -> Prepared:
    """Map a prepared data set into memory.

    Raises:
        UserError: a file is missing or damaged.
    """
    meta = read_meta(folder / META)
    try:
        # Copy-on-write: torch takes only arrays that could be written to; the files never change.
        arrays = {name: np.load(folder / name, mmap_mode="c", allow_pickle=False) for name in ARRAYS}
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete the folder and prepare the data set again") from error
    images = {name: _images(folder, meta, arrays[f"{name}_images.npy"]) for name in SPLITS}
    return Prepared(meta, **{name: Split(images[name], arrays[f"{name}_labels.npy"]) for name in SPLITS})


def _images(folder: Path, meta: Meta, array: np.ndarray) -> "np.ndarray | Photos":
    """A split's pixels, or its photos where `array` is their index."""
    if (array.dtype.names is not None) != (meta.photos is not None):
        found = "an index of photos" if array.dtype.names else "pixels"
        raise UserError(f"{folder}: damaged ({META} does not fit {found}); delete it and prepare the data set again")
    if meta.photos is None:
        return array
    from smallbatch.data.photos import Photos  # imports torch, which only training needs

    return Photos(Path(meta.photos), array)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 `images` [n, c, h, w], in units of pixel value / 255.

    Sums are exact integers, so the outcome does not depend on the order or the size of the chunks.
    """
    total = np.zeros(images.shape[1], np.int64)
    squares = np.zeros(images.shape[1], np.int64)
    chunk = max(1, CHUNK_VALUES // images[0].size)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk].astype(np.int64)
        total += part.sum(axis=(0, 2, 3))
        squares += (part * part).sum(axis=(0, 2, 3))
    count = images.shape[0] * images.shape[2] * images.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def fingerprint(classes: Iterable[str], train: Split, test: Split) -> str:
    """SHA-256 over everything of a data set that training can see, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for array in (train.images, train.labels, test.images, test.labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()
