"""What lies below a folder from elsewhere: nothing is opened here, and nothing vanishes without being counted."""

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

# What macOS, Windows, Synology, QNAP, Android, file systems and Python put beside a user's files by themselves.
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
    """A file below a folder: its path there, its size in bytes and the time of its last change in nanoseconds."""

    name: str
    size: int
    changed: int


def visible(name: str) -> bool:
    """Whether a file or folder is meant to be seen: not hidden, nor what a system adds by itself."""
    return not name.startswith(".") and not _SYSTEM.fullmatch(name)


def text(name: str) -> str:
    """A file's name as Unicode text in its composed form, whatever the locale; bytes that are no UTF-8 stay escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "surrogateescape"))


def folded(name: str) -> str:
    """A name as a file system sees it that knows no capitals, as those of macOS and Windows."""
    return name.casefold().strip()


def shown(name: str | Path) -> str:
    """A file's name for a message: on one line, and writable in every encoding of Unicode."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(name))


def some(names: Sequence[str]) -> str:
    """A list of names that does not fill the screen."""
    return shown(", ".join(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folders(folder: Path) -> list[Path]:
    """The visible folders in `folder` and those that links in it lead to, sorted.

    Raises:
        UserError: a link leads nowhere, or up to a folder that it lies in.
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
    """The visible files below `folder` at whatever depth, those behind linked folders too; no folder is read twice.

    A link that leads nowhere counts as a file: it is found out when it is opened.

    Args:
        folder: where to begin.
        left_out: here is counted, by kind, what is not a file or not meant to be seen.

    Raises:
        OSError: a folder cannot be read.
    """
    seen = {_identity(parent) for parent in folder.resolve().parents}
    plain = [""]
    linked: list[str] = []
    while plain or linked:  # what is there itself comes before what links lead to
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
    """SHA-256 over names, sizes and times of change of files, in hexadecimal; None if there are no files.

    It shows, without reading the files, that some were added, removed or changed.
    """
    rows = sorted(b"%b\0%d %d\0" % (os.fsencode(file.name), file.size, file.changed) for file in files)
    return hashlib.sha256(b"".join(rows)).hexdigest() if rows else None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """What a link leads to, or the link itself where that is nothing."""
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
    """The number of files below a folder, as far as it can be read."""
    return sum(len(files) for _, _, files in os.walk(folder))


def describe_left_out(left_out: Counter[str], most: int = 12) -> str:
    """Kinds and counts on one line, the most frequent first; nothing where nothing was left out."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {kind if count > 1 else _PLURAL.sub('', kind, count=1)}" for kind, count in kinds if count]
    more = sum(count for _, count in kinds[most:])
    return ", ".join(parts[:most]) + (f" and {more} files of other kinds" if more else "")
