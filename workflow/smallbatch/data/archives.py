"""Reads archives from untrusted sources: names and sizes of their members are checked before use."""

import contextlib
import logging
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from smallbatch.core.errors import UserError
from smallbatch.core.files import writing_errors
from smallbatch.data.folder_listing import shown

log = logging.getLogger(__name__)

MAX_MEMBER_BYTES = 1 << 29  # bytes; the largest that is read into memory, CIFAR-100's training file, has 155 MB
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError,
    struct.error, ValueError, OverflowError,
)  # fmt: skip
ONLY_FILES_MESSAGE = "only files and folders are allowed"


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The contents of the named regular files of a tar archive; nothing is written to disk.

    Raises:
        UserError: the archive is damaged, or a member is missing, not a regular file or too large.
    """
    found: dict[str, bytes] = {}
    with damage_reported(archive), tarfile.open(archive) as tar:
        for member in tar:
            name = posixpath.normpath(member.name)
            if name in names and name not in found:
                found[name] = _content(archive, tar, member)
        while tar.fileobj.read(1 << 20):  # to the end, where a compressed file has its checksum
            pass
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{archive}: has no member {', '.join(missing)}")
    return found


def _content(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of one regular file of bounded size."""
    if not member.isreg():
        raise UserError(f"{archive}: {member.name} is not a regular file")
    if member.size > MAX_MEMBER_BYTES:
        raise UserError(f"{archive}: {member.name} has {member.size} bytes, allowed are {MAX_MEMBER_BYTES}")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has content"
    return file.read()


def as_folder(path: Path, scratch: Path) -> Path:
    """`path` if it is a folder; else `scratch`, a new folder into which the archive at `path` is unpacked.

    Raises:
        UserError: the file or folder does not exist, or the archive is refused.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; allowed: a folder, or a tar or zip archive of one")
    scratch.mkdir()
    unpack(path, scratch)
    return scratch


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive (with any compression) or a zip archive into `folder`, and nothing outside it.

    Raises:
        UserError: the file is no such archive, is damaged, or has a member that is a link or device or lies outside.
    """
    names = _Names(archive, folder)
    with damage_reported(archive):
        if tarfile.is_tarfile(archive):
            with (
                tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar,
                writing_errors(folder),
            ):
                tar.extractall(folder, filter=lambda member, target: _plain_data(member, target, names))
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file, writing_errors(folder):
                _unpack_zip(archive, file, folder, names)
        else:
            raise UserError(f"{archive}: neither a tar nor a zip archive, or damaged")


class _Names:
    """Converts member names to file names of this machine and refuses two members that would be the same file."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folds = archive, _folds_names(folder)
        self.seen: dict[str, PurePosixPath] = {}

    def native(self, name: str) -> str:
        """The file name as Python passes it to this system, so that its bytes are UTF-8 in every locale."""
        for part in (PurePosixPath(name), *PurePosixPath(name).parents) if self.folds else ():
            other = self.seen.setdefault(unicodedata.normalize("NFC", str(part)).casefold(), part)
            if other != part:
                pair = f"{str(other)!r} and {str(part)!r}"
                raise UserError(f"{self.archive}: members {pair} have one name on this file system; rename one")
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def _folds_names(folder: Path) -> bool:
    """Whether the file system ignores case, as on macOS and Windows."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="aa") as probe:
        return Path(probe).with_name(Path(probe).name.swapcase()).exists()


def _plain_data(member: tarfile.TarInfo, folder: str, names: _Names) -> tarfile.TarInfo:
    """Tar's `data` filter without links: chains of links bypassed it in Python before 3.11.13 (CVE-2025-4517)."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member.replace(name=names.native(member.name), deep=False), folder)


def _unpack_zip(archive: Path, file: zipfile.ZipFile, folder: Path, names: _Names) -> None:
    guessed, unpacked = [], set()
    for member in file.infolist():
        _check_zip_member(archive, member)
        name, certain = _zip_name(member)
        if not certain:
            guessed.append(name)
        plain = posixpath.normpath(name)
        if plain == ".":  # the folder itself, which some programs list
            continue
        if plain in unpacked and not member.is_dir():
            raise UserError(f"{archive}: member {plain!r} stands twice; allowed: each file once")
        unpacked.add(plain)
        member.filename = names.native(name)
        file.extract(member, folder)
    if guessed:
        log.warning("%s: no encoding of names is said; read as code page 437, such as %s", archive, shown(guessed[0]))


def _zip_name(member: zipfile.ZipInfo) -> tuple[str, bool]:
    """A member's name, and whether it is certain: Python reads a name that is not marked as UTF-8 as code page 437."""
    name = member.filename
    if member.create_system == 0:  # DOS; old archives from Windows use its separator
        name = name.replace("\\", "/")
    if name.isascii() or member.flag_bits & 0x800:
        return name, True
    try:
        return name.encode("cp437").decode(), True  # macOS writes UTF-8 without marking it
    except UnicodeError:
        return name, False


def _check_zip_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that would not be unpacked as a plain file below the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise UserError(f"{archive}: member {member.filename!r} lies outside the archive's folder")
    if member.flag_bits & 1:
        raise UserError(f"{archive}: member {member.filename!r} is encrypted")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive}: member {member.filename!r} is a link or a device; {ONLY_FILES_MESSAGE}")


@contextlib.contextmanager
def damage_reported(archive: Path) -> Iterator[None]:
    """Turn the errors that readers raise on a damaged or malicious archive into a `UserError`."""
    try:
        yield
    except tarfile.SpecialFileError as error:
        raise UserError(
            f"{archive}: member {error.tarinfo.name!r} is a link or a device; {ONLY_FILES_MESSAGE}"
        ) from error
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: member {error.tarinfo.name!r} lies outside the archive's folder") from error
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise UserError(f"{archive}: damaged or not such an archive ({reason})") from error
    except OSError as error:
        if error.errno is not None:  # the readers' own errors have no errno
            raise UserError(f"{archive}: cannot be read ({error.strerror})") from error
        raise UserError(f"{archive}: damaged ({error})") from error
