"""Files that are complete or absent: written under a temporary name, flushed to disk, renamed."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final

from smallbatch.core.errors import UserError

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of all files in an archive: the earliest that the format allows."""

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and call again: what is finished is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and call again: what is finished is kept",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EFBIG: "it would be larger than `ulimit -f`, or its file system, allows a file to be",
    errno.ENAMETOOLONG: "the name is too long for its file system",
    errno.EIO: "the disk reports an error",
}

TEMPORARY = ".laid-"
"""Prefix of the names of temporary folders."""

DAY_S = 86_400.0
"""Age in seconds beyond which a temporary file is abandoned; writing those of large data sets takes hours."""


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Context in which a failed write to `path` raises a `UserError` with the operating system's message."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise UserError(f"{path}: cannot be written: {advice}") from error


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Context with a file that appears at `path` when the block succeeds, and leaves no trace when it fails.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_UMASK)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_folder(folder: Path, contents: Mapping[str, bytes], *, flush: bool = True) -> None:
    """Write a folder with these files, completely or not at all; it replaces an existing folder.

    Args:
        folder: the folder to write.
        contents: the contents of its files, by name.
        flush: whether to flush to disk, which takes time; not needed if the folder can be made again after a power cut.
    """
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TEMPORARY, ignore_cleanup_errors=True) as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            for name, content in contents.items():
                with open(made / name, "wb") as file:
                    file.write(content)
                    file.flush()
                    if flush:
                        os.fsync(file.fileno())
            if flush:
                _sync_folder(made)
            try:
                made.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                folder.rename(Path(temporary, "old"))
                made.rename(folder)
        if flush:
            _sync_folder(folder.parent)


def remove_temporaries(folder: Path, prefix: str = ".", age: float = 0.0) -> None:
    """Delete temporary files and folders that killed processes left behind.

    Args:
        folder: the folder in which they lie.
        prefix: the prefix of their names; `.NAME.` for those that were to become NAME.
        age: minimum seconds since the last change, for folders in which others may be writing.
    """
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.startswith(prefix) and _MADE_NAME.search(entry.name):
                _remove_if_older(entry, age)


def remove_abandoned(folder: Path) -> None:
    """Delete temporary files and folders that are older than a day and whose target exists: their writer was killed."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            made = _MADE_NAME.search(entry.name)
            if made and made[1] and os.path.lexists(folder / made[1]):
                _remove_if_older(entry, DAY_S)


def _remove_if_older(entry: os.DirEntry[str], age: float) -> None:
    with contextlib.suppress(OSError):  # deleted by another process, or owned by another user
        if entry.stat(follow_symlinks=False).st_mtime <= time.time() - age:
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


_MADE_NAME = re.compile(r"^\.(.*)[.-][a-z0-9_]{8}$")
"""Name of a temporary file or folder: the name of its target, then eight random characters from `tempfile`."""


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in UTF-8, completely or not at all."""
    with atomic(path) as file:
        file.write(_json(value))


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    # File names need not be valid UTF-8; JSON escapes the bytes that are not.
    return re.sub("[\ud800-\udfff]", lambda odd: f"\\u{ord(odd[0]):04x}", text).encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); delete it: it is made again") from error


DIGEST: Final = "digest"
"""Key of a sealed file that holds the SHA-256 of everything else in it."""


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON with a digest of its content, completely or not at all.

    Args:
        path: the file.
        values: the values by key, of types that JSON preserves (lists, not tuples).
    """
    with atomic(path) as file:
        file.write(sealed_bytes(values))


def sealed_bytes(values: Mapping[str, Any]) -> bytes:
    """The bytes that `write_sealed` writes."""
    return _json({**values, DIGEST: _content_digest(values)})


def parse_sealed(content: bytes) -> dict[str, Any]:
    """The values that `sealed_bytes` was given, with their digest under `DIGEST`.

    Raises:
        ValueError: the content was changed; the message says how.
    """
    try:
        values = json.loads(content, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error
    if not isinstance(values, dict) or DIGEST not in values:
        raise ValueError("it has no digest of its content")
    digest = values.pop(DIGEST)
    if digest != _content_digest(values):
        raise ValueError("its content does not fit its digest")
    return {**values, DIGEST: digest}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys, of which Python itself would silently use the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key appears twice in it")
    return values


def read_sealed(path: Path) -> dict[str, Any]:
    """The values that `write_sealed` wrote, without their digest.

    Raises:
        UserError: the file is missing or unreadable, or its content was changed.
    """
    try:
        values = parse_sealed(read_regular(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged or edited: {error}") from error
    return {key: value for key, value in values.items() if key != DIGEST}


def _content_digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def zip_files(file: IO[bytes], contents: Mapping[str, bytes]) -> None:
    """Write an archive of files, by name; the same bytes for the same files."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


class NotRegular(OSError):
    """A FIFO, a socket or a device stands where a file is needed: reading it may never end."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read its bytes.

    Raises:
        NotRegular: the path is not a regular file.
        OSError: as raised by `open`.
    """
    return open(path, "rb", opener=_regular)


def read_regular(path: str | Path) -> bytes:
    """The bytes of a file, opened by `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK)  # else opening a FIFO waits for a writer
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
    raise NotRegular(errno.EINVAL, "it is no file", path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(*paths: Path) -> str:
    """A short hash over the content of files, independent of their order."""
    return hashlib.sha256("".join(sha256(path) for path in sorted(paths)).encode()).hexdigest()[:16]


def check_path_kinds(folders: Iterable[Path], files: Iterable[Path]) -> None:
    """Check that no file is where a folder will be made, and no folder where a file will be written.

    Raises:
        UserError: there is one; the message names it.
    """
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    for place in (place for folder in missing for place in (folder, *folder.parents)):
        if os.path.lexists(place) and not os.path.isdir(place):
            found = "a file" if os.path.exists(place) else "a link to nothing"
            raise UserError(f"{place}: {found} stands where a folder is needed; move it away")
    for file in files:
        if os.path.isdir(file):
            raise UserError(f"{file}: a folder stands where a file is needed; move it away")


def check_folder_writable(folder: Path) -> None:
    """Check, before any work, that files can be made in `folder`.

    Raises:
        UserError: they cannot; the message says why.
    """
    with writing_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")


def touch_future_files(paths: Iterable[Path]) -> list[Path]:
    """Give files dated in the future the present time, if they may be changed; returns all that were ahead.

    Otherwise the files made from them would look older than they are, and would be made again and again.
    """
    ahead = [path for path in paths if path.is_file() and path.stat().st_mtime > time.time()]
    for path in ahead:
        with contextlib.suppress(OSError):
            os.utime(path)
    return ahead


def set_aside_cache_file(path: Path) -> Path:
    """Like `set_aside`, for a file of a cache, which can always be made again: only the latest damaged copy is kept."""
    for earlier in path.parent.glob(f"{glob.escape(path.name)}.damaged-*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
    return set_aside(path)


def set_aside(path: Path, why: str = "damaged", *, out_of: Path | None = None) -> Path:
    """Rename a file or folder that is damaged or no longer in use, so that nothing uses it; returns the new path.

    Args:
        path: the path of the file or folder; the new name is `NAME.WHY-1` or the like, in the same folder.
        why: the reason in one word.
        out_of: a folder above it that must hold no unknown files, if any; the new path lies beside that folder.
    """
    folder = out_of.parent if out_of else path.parent
    name = ".".join(path.relative_to(folder).parts)
    for number in range(1, 10_000):
        aside = folder / f"{name}.{why}-{number}"
        if not os.path.lexists(aside):
            with writing_errors(path):
                _move(path, aside)
            return aside
    raise UserError(f"{path}: {why} 9,999 times; look at the disk")


def _move(path: Path, target: Path) -> None:
    """Rename a file or folder; if the target is on another disk, for example behind a link, copy and then delete it."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(path, target)
