"""Prepares arrays of the user's own from files: .npz, .npy, HDF5 or safetensors. Pickled objects are never loaded."""

import io
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from smallbatch.core.errors import UserError, refuse
from smallbatch.data.array_checks import SPLIT, WHOLE, Named, Own, checked, write_own
from smallbatch.data.folder_listing import shown, some, stat_digest
from smallbatch.data.prepared import Meta


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the arrays of a file or folder as prepared arrays.

    Raises:
        UserError: a file or an array is not as it has to be; names it and what is allowed.
    """
    path, watched = Path(settings["path"]).expanduser(), stat_digest(settings["path"])
    return write_own(label, settings, folder, path, read(settings), watched)


def read(settings: dict[str, Any]) -> Own:
    """Read and check the arrays that settings name; raises as `prepare`."""
    path = Path(settings["path"]).expanduser()
    names = settings.get("keys", {})
    divided = "test_fraction" in settings
    if both := _file_of_each_split(path):
        if divided:
            refuse(path, "test_fraction", settings["test_fraction"], f"none, since there is {both[1].name}")
        _check_keys(path, names, WHOLE)
        given = {
            f"{split}_{role}": _named(file, role, names, prefix=f"{file.name}: ")
            for split, file in zip(("train", "test"), both, strict=True)
            for role in WHOLE
        }
        return checked(path, given, settings)
    roles = WHOLE if divided else SPLIT
    _check_keys(path, names, roles)
    with _reading(path):
        there = _format_of(path).names(path)
    if divided and set(SPLIT) <= set(there):
        refuse(path, "test_fraction", settings["test_fraction"], f"none, since there are {SPLIT[2]} and {SPLIT[3]}")
    if not divided and set(WHOLE) <= set(there) and not any(names.get(role, role) in there for role in SPLIT):
        refuse(path, "test_fraction", None, f"a number between 0 and 1, unless there are {SPLIT[2]} and {SPLIT[3]}")
    return checked(path, {role: _named(path, role, names, there=there) for role in roles}, settings)


def _file_of_each_split(path: Path) -> list[Path]:
    """The files of training and test images in a folder; empty if it has none."""
    for suffix in FORMATS:
        files = [path / f"{split}{suffix}" for split in ("train", "test")]
        found = [file for file in files if file.is_file()] if path.is_dir() else []
        if len(found) == 1:
            [missing] = set(files) - set(found)
            raise UserError(f"{path}: {found[0].name} without {missing.name}; allowed: both")
        if found:
            return found
    return []


def _check_keys(path: Path, names: Mapping[str, str], roles: Collection[str]) -> None:
    for role in names:
        if role not in roles:
            refuse(path, f"keys.{role}", names[role], f"{', '.join(roles)} here")
        if not isinstance(names[role], str):
            refuse(path, f"keys.{role}", names[role], "the name of one array, which may be [n, outputs]")


def _named(
    path: Path, role: str, names: Mapping[str, str], *, prefix: str = "", there: Collection[str] | None = None
) -> Named:
    """The array of a role, which the file calls by the role unless `names` says otherwise."""
    name = names.get(role, role)
    with _reading(path):
        there = _format_of(path).names(path) if there is None else there
        if name not in there:
            has = some(sorted(there)) or "no arrays"
            raise UserError(f"{path}: has no {shown(name)}; it has {has}; `keys` says what is what")
        return Named(f"{prefix}{name}", _format_of(path).read(path, name))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the readers' errors, which have no common base class, into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: package {error.name} is not installed; `pip install {error.name}`") from error
    except OSError as error:
        if error.errno is not None and error.strerror:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise UserError(f"{path}: damaged or not such a file ({_in_a_line(error)})") from error
    except Exception as error:
        raise UserError(f"{path}: damaged or not such a file ({_in_a_line(error)})") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class Format(NamedTuple):
    """How files of a format are read: the names of their arrays, and one of these."""

    names: Callable[[Path], list[str]]
    read: Callable[[Path, str], np.ndarray]


def _format_of(path: Path) -> Format:
    if path.is_dir():
        return FOLDER
    if path.suffix.lower() not in FORMATS:
        allowed = f"a file {', '.join(FORMATS)}, or a folder of files .npy"
        raise UserError(f"{path}: not a file of arrays by its name; allowed: {allowed}")
    return FORMATS[path.suffix.lower()]


class _Npy(NamedTuple):
    """The head of a .npy file: where its numbers begin, their type, shape and order."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    by_columns: bool

    @property
    def end(self) -> int:
        return self.start + self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def _head(path: Path, name: str, file: IO[bytes], size: int) -> _Npy:
    """The head of a .npy file of `size` bytes, which holds numbers, as many as it says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{name} is of version {version}")
        shape, by_columns, dtype = readers[version](file)
    if dtype.hasobject:
        raise UserError(f"{path}: {shown(name)}: Python objects, which are not loaded; allowed: an array of numbers")
    head = _Npy(file.tell(), dtype, shape, by_columns)
    if head.end != size:
        raise ValueError(f"{name} has {size} bytes, not {head.end}")
    return head


def _npz_names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _npz_array(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"{name}.npy")  # checks its checksum
    head = _head(path, name, io.BytesIO(content), len(content))
    numbers = np.frombuffer(content, head.dtype, offset=head.start)
    return numbers.reshape(head.shape, order="F" if head.by_columns else "C")


def _npy_names(folder: Path) -> list[str]:
    return [file.stem for file in folder.glob("*.npy")]


def _npy_array(folder: Path, name: str) -> np.ndarray:
    """Mapped, since it may be larger than the memory."""
    file = folder / f"{name}.npy"
    with open(file, "rb") as content:
        head = _head(folder, name, content, file.stat().st_size)
    if 0 in head.shape:
        return np.empty(head.shape, head.dtype)  # which cannot be mapped
    return np.memmap(file, head.dtype, "r", head.start, head.shape, "F" if head.by_columns else "C")


def _hdf5_names(path: Path) -> list[str]:
    import h5py

    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _hdf5_array(path: Path, name: str) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        if file[name].dtype.hasobject:
            raise UserError(f"{path}: {shown(name)}: objects or text; allowed: an array of numbers")
        array: np.ndarray = np.asarray(file[name][()])
        return array


def _safetensors_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return list(file.keys())


def _safetensors_array(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        kind = file.get_slice(name).get_dtype()
        if kind.startswith(("BF", "F8")):
            raise UserError(f"{path}: {shown(name)}: {kind}; allowed: integers, or floats of 16, 32 or 64 bits")
        array: np.ndarray = file.get_tensor(name)
        return array


FOLDER = Format(_npy_names, _npy_array)
FORMATS = {
    ".npz": Format(_npz_names, _npz_array),
    ".h5": Format(_hdf5_names, _hdf5_array),
    ".hdf5": Format(_hdf5_names, _hdf5_array),
    ".safetensors": Format(_safetensors_names, _safetensors_array),
}
"""End of a file's name -> how it is read."""
