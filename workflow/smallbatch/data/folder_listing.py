"""Lists the contents of a user's folder without opening files; everything that is skipped is counted."""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from smallbatch.core.errors import UserError

# Files that macOS, Windows, Synology, QNAP, Android, file systems and Python create beside a user's files.
_SYSTEM = re.compile(
    r"__macosx|icon\r|network trash folder|temporary items"
    r"|system volume information|\$recycle\.bin|recycle[dr]|desktop\.ini|(eh)?thumbs(_vista)?\.db(:encryptable)?"
    r"|@eadir|@tmp|@sharebin|#recycle|#snapshot|@recycle|@recently-snapshot|picasa\.ini"
    r"|lost\+found|lost\.dir|found\.\d{3}|__pycache__",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"(?<=file|lder|ture|nail)s\b")
_SPECIAL = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


class File(NamedTuple):
    """A file below a folder: its relative path, its size in bytes and its modification time in nanoseconds."""

    name: str
    size: int
    changed: int


def visible(name: str) -> bool:
    """Whether a file or folder belongs to the user: it is neither hidden nor created by a system."""
    return not name.startswith(".") and not _SYSTEM.fullmatch(name)


def text(name: str) -> str:
    """A file's name as composed Unicode text in every locale; bytes that are not valid UTF-8 stay escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "surrogateescape"))


def folded(name: str) -> str:
    """A name as seen by a file system that ignores case, such as those of macOS and Windows."""
    return name.casefold().strip()


def shown(name: str | Path) -> str:
    """A file's name for a message: on one line, and encodable in every Unicode encoding."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(name))


def some(names: Sequence[str]) -> str:
    """A list of names, shortened to a few."""
    return shown(", ".join(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folders(folder: Path) -> list[Path]:
    """The visible folders in `folder`, including those that links point to, sorted.

    Raises:
        UserError: a link is broken, or leads up to a folder that contains it.
    """
    subfolders = []
    for entry in sorted(folder.iterdir()):
        if not visible(entry.name):
            continue
        if entry.is_symlink():
            _check_link(entry)
        if entry.is_dir():
            subfolders.append(entry)
    return subfolders


def _check_link(link: Path) -> None:
    if not link.exists():
        raise UserError(f"{shown(link)}: a link to {shown(os.readlink(link))}, which is not there")
    if link.parent.resolve().is_relative_to(link.resolve()):
        raise UserError(f"{shown(link)}: a link to {shown(os.readlink(link))}, a folder that it lies in itself")


def walk(folder: Path, left_out: Counter[str]) -> Iterator[File]:
    """The visible files below `folder` at any depth, including linked folders; no folder is read twice.

    A broken link counts as a file: the error occurs when it is opened.

    Args:
        folder: folder to begin with.
        left_out: counts of skipped entries by kind (not a file, or not visible), updated here.

    Raises:
        OSError: a folder cannot be read.
    """
    seen = {_identity(parent) for parent in folder.resolve().parents}
    plain = [""]
    linked: list[str] = []
    while plain or linked:  # the folder's own content comes before that of links
        subfolder = plain.pop() if plain else linked.pop()
        identity = _identity(folder / subfolder)
        if identity in seen:
            left_out["linked folders (read elsewhere)"] += 1
            continue
        seen.add(identity)
        with os.scandir(folder / subfolder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                status = _status(entry)
                if not visible(entry.name):
                    _count_hidden(entry, status, left_out)
                elif stat.S_ISDIR(status.st_mode):
                    (linked if entry.is_symlink() else plain).append(f"{subfolder}{entry.name}/")
                elif stat.S_IFMT(status.st_mode) in _SPECIAL:
                    left_out[f"special files ({_SPECIAL[stat.S_IFMT(status.st_mode)]})"] += 1
                else:
                    yield File(f"{subfolder}{entry.name}", status.st_size, status.st_mtime_ns)


def tree_digest(files: Iterable[File]) -> str | None:
    """SHA-256 of names, sizes and modification times of files, in hexadecimal; None if there are no files.

    It shows, without reading the files, whether some were added, removed or changed.
    """
    rows = sorted(b"%b\0%d %d\0" % (os.fsencode(file.name), file.size, file.changed) for file in files)
    return hashlib.sha256(b"".join(rows)).hexdigest() if rows else None


def stat_digest(path: str) -> str | None:
    """A digest of all files in a folder, or of a file, by name, size and time; None if they cannot be read."""
    try:
        place = Path(path).expanduser()
        if place.is_dir():
            return tree_digest(walk(place, Counter()))
        return tree_digest([File("", place.stat().st_size, place.stat().st_mtime_ns)])
    except (OSError, ValueError, RuntimeError):  # exceptions of Path's methods for invalid paths
        return None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """The status of a link's target, or of the link itself if it is broken."""
    try:
        return entry.stat()
    except OSError:
        if entry.is_symlink():
            return entry.stat(follow_symlinks=False)
        raise


def _count_hidden(entry: os.DirEntry[str], status: os.stat_result, left_out: Counter[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        left_out[f"files in {shown(entry.name)}/"] += 0 if entry.is_symlink() else count_files(entry.path)
    elif entry.name.endswith(".icloud"):
        left_out["files that iCloud has not downloaded"] += 1
    else:
        left_out["hidden or system files"] += 1


def count_files(folder: str | Path) -> int:
    """The number of readable files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def describe_left_out(left_out: Counter[str], most: int = 12) -> str:
    """Kinds and counts on one line, the most frequent first; empty if nothing was left out."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {kind if count > 1 else _PLURAL.sub('', kind, count=1)}" for kind, count in kinds if count]
    more = sum(count for _, count in kinds[most:])
    return ", ".join(parts[:most]) + (f" and {more} files of other kinds" if more else "")
