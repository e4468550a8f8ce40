"""Prepared data: memory-mapped arrays and their metadata, the only form in which training reads data.

Photos of many sizes stay in their files: an index replaces the pixels (`smallbatch.data.photos`). `meta.json` holds a
digest of itself and of each array, so that training reads only what was written.
"""

import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.core.files import (
    DIGEST,
    atomic,
    read_json,
    read_sealed,
    set_aside,
    sha256,
    write_sealed,
    writing_errors,
)

if TYPE_CHECKING:
    from smallbatch.data.photos import Photos

SPLITS = ("train", "test")
ARRAYS = tuple(f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels"))
META = "meta.json"

log = logging.getLogger(__name__)

CHUNK_VALUES = 1 << 22
"""Number of pixel values that statistics process at once, to bound memory."""


@dataclass(frozen=True)
class Meta:
    """Metadata of a prepared data set.

    label: the name shown in figures and run folders.
    classes: class names; a class's label is its index here.
    shape: channels, height, width.
    mean, std: mean and standard deviation of each channel over the training split, in units of pixel value / 255, or of
        the floats themselves.
    train, test: number of images.
    fingerprint: SHA-256 of both splits' arrays and the class names, in hexadecimal; for photos, of their bytes.
    photos: folder from which photos are read; None if the images are arrays.
    files: file name of each array -> SHA-256 of the file, in hexadecimal; empty if the arrays are in memory.
    settings: the settings it was prepared with, as in the configuration, without its label.
    watched: digest of the source's files by name, size and time (`data.folder_listing`); None if the source cannot
        change, or is not watched.
    dtype: float32 if the images are floats; None if they are uint8 or photos.
    targets: None if labels are classes; else binary or numbers, the kind of the targets, one for each output, which
        `classes` then names.
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
    files: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)  # origin is irrelevant
    watched: str | None = field(default=None, compare=False)
    dtype: str | None = None
    targets: str | None = None

    @property
    def value_bytes(self) -> int:
        """Bytes of each value of an image."""
        return np.dtype(self.dtype or np.uint8).itemsize


Images = TypeVar("Images", np.ndarray, "Photos")


@dataclass(frozen=True)
class Split(Generic[Images]):
    """Images [n, channels, height, width] uint8 or float32, or photos, and labels [n] int64, or targets [n, outputs]
    float32.

    Examples that are no images but [n, features] are images of one pixel, with a channel for each feature.
    """

    images: Images
    labels: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: its metadata and both splits, memory-mapped.

    Raises:
        UserError: a label is not the index of a class, or a target is not a finite number, or 0 or 1 if it is binary.
    """

    meta: Meta
    train: "Split[np.ndarray] | Split[Photos]"
    test: "Split[np.ndarray] | Split[Photos]"

    def __post_init__(self) -> None:
        for name in SPLITS:
            labels = getattr(self, name).labels
            if self.meta.targets:
                self._check_targets(name, labels)
                continue
            most = len(self.meta.classes) - 1
            if labels.dtype != np.int64:
                raise UserError(f"{self.meta.label}: its {name} labels are {labels.dtype}; allowed: int64")
            if labels.size and not 0 <= labels.min() <= labels.max() <= most:
                actual = f"{labels.min()} to {labels.max()}"
                raise UserError(
                    f"{self.meta.label}: its {name} labels go from {actual}; allowed: 0 to {most}, its classes"
                )

    def _check_targets(self, name: str, targets: np.ndarray) -> None:
        known = np.isin(targets, (0, 1)) if self.meta.targets == "binary" else np.isfinite(targets)
        if targets.dtype != np.float32 or targets.shape[1:] != (len(self.meta.classes),) or not known.all():
            allowed = f"float32 [n, {len(self.meta.classes)}], {self.meta.targets}"
            raise UserError(
                f"{self.meta.label}: its {name} labels are {targets.dtype} {list(targets.shape)}; allowed: {allowed}"
            )


def write(
    folder: Path,
    label: str,
    classes: Iterable[str],
    train: Split[np.ndarray],
    test: Split[np.ndarray],
    *,
    settings: Mapping[str, Any] | None = None,
    watched: str | None = None,
) -> Meta:
    """Write a data set as prepared arrays into `folder`; `settings` and `watched` as in `Meta`.

    Raises:
        UserError: a label is not the index of a class, or the files cannot be written.
    """
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
        settings=settings or {},
        watched=watched,
        dtype=None if train.images.dtype == np.uint8 else train.images.dtype.name,
        targets=kind_of_targets(train.labels, test.labels),
    )
    return save(folder, meta, train, test)


def kind_of_targets(*labels: np.ndarray) -> str | None:
    """`Meta.targets` of the labels of some splits."""
    if labels[0].ndim == 1:
        return None
    return "binary" if all(np.isin(targets, (0, 1)).all() for targets in labels) else "numbers"


def first_nonbinary_target(names: Sequence[str], *targets: np.ndarray) -> str | None:
    """The first target that is neither 0 nor 1, `2 of output tall`; None if there is none, or labels are classes.

    Args:
        names: of outputs.
        targets: of some splits, [n, outputs].
    """
    for of in targets if targets[0].ndim == 2 else ():
        if len(others := np.argwhere(~np.isin(of, (0, 1)))):
            row, output = others[0]
            return f"{of[row, output]:g} of output {names[output]}"
    return None


def save(folder: Path, meta: Meta, train: Split[np.ndarray], test: Split[np.ndarray]) -> Meta:
    """Write both splits (for photos, their index) into `folder`; `meta.json` is written last and marks completeness.

    Returns:
        `meta` with the arrays' digests.

    Raises:
        UserError: as in `write`.
    """
    Prepared(meta, train, test)  # raises an error if a label is out of range
    for name in (META, *ARRAYS):
        if (folder / name).is_dir():
            log.warning("%s: a folder, set aside as %s", folder / name, set_aside_beside_folder(folder / name))
    with writing_errors(folder / META):
        (folder / META).unlink(missing_ok=True)  # it must not be valid while arrays are being replaced
    files = {}
    for name, split in zip(SPLITS, (train, test), strict=True):
        for kind in ("images", "labels"):
            with atomic(folder / f"{name}_{kind}.npy") as file:
                files[f"{name}_{kind}.npy"] = _save(file, getattr(split, kind))
    settings = {key: value for key, value in meta.settings.items() if key != "label"}
    meta = replace(meta, files=files, settings=settings)
    write_sealed(folder / META, {key: value for key, value in asdict(meta).items() if value is not None})
    return meta


def _save(file: IO[bytes], array: np.ndarray) -> str:
    """Write a .npy file in parts, since numpy's own writer does not report a full disk; returns its SHA-256."""
    digest = hashlib.sha256()
    for part in _parts(array):
        file.write(part)
        digest.update(part)
    return digest.hexdigest()


def _parts(array: np.ndarray) -> Iterator[bytes]:
    """The bytes of an array's .npy file: the header, then the numbers."""
    header = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(array[:0]) | {"shape": array.shape}
    np.lib.format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for start in range(0, len(array), 4096):
        yield np.ascontiguousarray(array[start : start + 4096]).tobytes()


def read_meta(path: Path) -> Meta:
    """Read a `meta.json`.

    Raises:
        UserError: the file is missing, damaged, edited, of an earlier version or not a `meta.json` of this project.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: missing; `snakemake datasets` prepares the data set")
    if not path.is_file():
        raise UserError(f"{path}: not a file; set it aside, and `snakemake datasets` prepares the data set")
    try:
        fields = read_sealed(path)
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return Meta(**fields)
    except UserError as error:
        if _is_of_an_earlier_version(path):
            raise UserError(f"{path}: of an earlier version, without digests; prepare the data set again") from error
        raise
    except TypeError as error:
        raise UserError(f"{path}: not of a data set ({error})") from error


def _is_of_an_earlier_version(path: Path) -> bool:
    """Whether a `meta.json` is from a version without digests."""
    try:
        fields = read_json(path) if path.is_file() else None
    except UserError:
        return False
    return isinstance(fields, dict) and "fingerprint" in fields and DIGEST not in fields and "files" not in fields


class _Damage(Exception):
    """A file is not as it was written; the message describes the difference."""


def read(folder: Path) -> Prepared:
    """Map a prepared data set into memory. Each array is read in full once, to compare its digest.

    Raises:
        UserError: a file is missing, cannot be read, or is not as it was written. In the last case it is set aside,
            with `meta.json`, so that the next call prepares the data set again.
    """
    try:
        meta = read_meta(folder / META)
    except UserError as error:
        if os.path.lexists(folder / META) and not _is_of_an_earlier_version(folder / META):
            _refuse(folder / META, str(error).partition(";")[0])
        raise
    arrays = {name: _mapped(folder / name, meta) for name in ARRAYS}
    splits = {name: _split(meta, arrays[f"{name}_images.npy"], arrays[f"{name}_labels.npy"]) for name in SPLITS}
    return Prepared(meta, **splits)


def _mapped(path: Path, meta: Meta) -> np.ndarray:
    """A copy-on-write array: torch accepts only writable arrays; the files never change."""
    try:
        with _opened(path) as file:
            start, dtype, shape = _layout(file, path.name, meta)
            file.seek(0)
            _compare(hashlib.file_digest(file, "sha256").hexdigest(), path.name, meta)
            return np.memmap(file, dtype, "c", start, shape)
    except _Damage as damage:
        _refuse(path, f"{path}: damaged ({damage})")


def _opened(path: Path) -> io.BufferedReader:
    if not os.path.lexists(path):
        raise UserError(f"{path}: missing; prepare the data set again")
    if not path.is_file():  # reading a pipe would block for ever
        raise _Damage("it is not a file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _layout(file: io.BufferedReader, name: str, meta: Meta) -> tuple[int, np.dtype, tuple[int, ...]]:
    """Offset of the numbers in a .npy file, their type and shape, after a check against `meta`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns of headers written by Python 2, which these files never have
            version = np.lib.format.read_magic(file)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # the readers' exceptions for damaged headers have no common base class
        raise _Damage(f"its header cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error
    expected, wanted = _expected(name, meta, dtype)
    if (version, by_columns, dtype, shape) != ((1, 0), False, expected, wanted):
        raise _Damage(f"it holds {dtype} {shape}, expected {expected} {wanted}"[:300])
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if size != start + dtype.itemsize * int(np.prod(shape)):
        raise _Damage(f"it has {size} bytes, expected {start + dtype.itemsize * int(np.prod(shape))}")
    return start, dtype, shape


def _expected(name: str, meta: Meta, actual: np.dtype) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of an array. For an index, the longest names' lengths are unknown and taken from `actual`."""
    split, kind = name.removesuffix(".npy").split("_")
    count = getattr(meta, split)
    if kind == "labels":
        return (np.dtype("<f4"), (count, len(meta.classes))) if meta.targets else (np.dtype("<i8"), (count,))
    if meta.photos is None:
        return np.dtype(meta.dtype or np.uint8), (count, *meta.shape)
    lengths = [actual[column].itemsize if column in (actual.names or ()) else 1 for column in ("file", "name")]
    return index_type(*lengths), (count,)


def _compare(digest: str, name: str, meta: Meta) -> None:
    if digest != meta.files.get(name):
        raise _Damage(f"its content is not what was written: SHA-256 is {digest[:12]}..., not that of {META}")


def set_aside_beside_folder(path: Path) -> Path:
    """Set a data set's file aside, outside its folder: DVC does not pull into a folder with files unknown to it."""
    return set_aside(path, out_of=path.parent)


def _refuse(path: Path, what: str) -> NoReturn:
    """Set a damaged file and `meta.json` aside, so that the data set counts as unprepared, and raise an error."""
    try:
        target = set_aside_beside_folder(path)
        if path.name != META and path.with_name(META).exists():
            set_aside_beside_folder(path.with_name(META))
    except (UserError, OSError):  # a folder that is not writable; or another process was faster
        raise UserError(f"{what}; it cannot be set aside; prepare the data set again") from None
    raise UserError(f"{what}; set aside as {target}; the next call prepares the data set again")


def damage(folder: Path, meta: Meta) -> str | None:
    """The damage to a data set's array files, as text; None if a quick check finds none.

    Only files newer than `meta.json` are read in full.
    """
    return next((reason for name in ARRAYS if (reason := _damage(folder, name, meta))), None)


def damaged_arrays(folder: Path) -> list[Path]:
    """The existing arrays that are damaged, see `damage`; empty if `meta.json` cannot be read."""
    try:
        meta = read_meta(folder / META)
    except UserError:
        return []
    return [folder / name for name in ARRAYS if os.path.lexists(folder / name) and _damage(folder, name, meta)]


def _damage(folder: Path, name: str, meta: Meta) -> str | None:
    written = (folder / META).stat().st_mtime_ns
    try:
        with _opened(folder / name) as file:
            _layout(file, name, meta)
            if os.fstat(file.fileno()).st_mtime_ns > written:
                _compare(sha256(folder / name), name, meta)
    except _Damage as damage:
        return f"{folder / name}: damaged ({damage})"
    except UserError as error:
        return str(error)
    return None


def _split(meta: Meta, images: np.ndarray, labels: np.ndarray) -> "Split[np.ndarray] | Split[Photos]":
    """A split of pixels, or of photos with `images` as their index."""
    if meta.photos is None:
        return Split(images, labels)
    from smallbatch.data.photos import Photos  # imports torch, which only training needs

    return Split(Photos(Path(meta.photos), images), labels)


def index_type(file: int, name: int) -> np.dtype:
    """The type of an index of photos, with the lengths in bytes of the longest file name and member name."""
    numbers = [("offset", "<i8"), ("size", "<i8"), ("height", "<i4"), ("width", "<i4"), ("sha256", "V32")]
    return np.dtype([("file", f"S{max(1, file)}"), ("name", f"S{max(1, name)}"), *numbers])


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of `images` [n, c, h, w]; of uint8 in units of pixel value / 255.

    Of uint8 the sums are exact integers, so the result does not depend on the order or size of the chunks.
    """
    if images.dtype != np.uint8:
        return _float_statistics(images)
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


def _float_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As `channel_statistics`, of floats, in the single precision that they are trained in.

    Sums are over differences to the first image's value, so that a constant channel has a deviation of exactly 0.
    """
    first = images[0, :, 0, 0].astype(np.float64)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    chunk = max(1, CHUNK_VALUES // images[0].size)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk] - first[:, None, None]
        total += part.sum(axis=(0, 2, 3))
        squares += (part * part).sum(axis=(0, 2, 3))
    mean = total / (images.shape[0] * images.shape[2] * images.shape[3])
    variance = squares / (images.shape[0] * images.shape[2] * images.shape[3]) - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    return tuple((first + mean).astype(np.float32).tolist()), tuple(std.astype(np.float32).tolist())


def fingerprint(classes: Iterable[str], train: Split[np.ndarray], test: Split[np.ndarray]) -> str:
    """SHA-256 of everything in a data set that training uses, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for array in (train.images, train.labels, test.images, test.labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()
