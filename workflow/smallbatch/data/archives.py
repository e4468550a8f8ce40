"""Archives from elsewhere: their members are untrusted names and sizes until checked."""

import contextlib
import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from smallbatch.errors import UserError
from smallbatch.files import writing_errors

MEMBER_LIMIT = 1 << 29  # bytes; the largest that we read into memory, CIFAR-100's training file, has 155 MB
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The contents of these regular files of a tar archive; nothing is written to disk.

    Raises:
        UserError: the archive is damaged, or a member is missing, not a regular file or too large.
    """
    found: dict[str, bytes] = {}
    with damage_told(archive), tarfile.open(archive) as tar:
        for member in tar:
            name = posixpath.normpath(member.name)
            if name in names and name not in found:
                found[name] = _content(archive, tar, member)
        while tar.fileobj.read(1 << 20):  # to the end, where a compressed file's check sum stands
            pass
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{archive}: has no member {', '.join(missing)}")
    return found


def _content(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of one regular file of bounded size."""
    if not member.isreg():
        raise UserError(f"{archive}: {member.name} is not a regular file")
    if member.size > MEMBER_LIMIT:
        raise UserError(f"{archive}: {member.name} has {member.size} bytes, allowed are {MEMBER_LIMIT}")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has content"
    return file.read()


def opened(path: Path, scratch: Path) -> Path:
    """`path` where it is a folder; else the folder that it holds as an archive, unpacked into `scratch`, made for it.

    A single folder at the archive's top is descended into.

    Raises:
        UserError: there is no such file or folder, or the archive is refused.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; allowed: a folder, or a tar or zip archive of one")
    scratch.mkdir()
    unpack(path, scratch)
    top = folders(scratch)
    return top[0] if len(top) == 1 and folders(top[0]) else scratch


def folders(folder: Path) -> list[Path]:
    """The visible folders in `folder`, sorted."""
    return sorted(entry for entry in folder.iterdir() if visible(entry.name) and entry.is_dir())


def visible(name: str) -> bool:
    """Whether a file or folder is meant to be seen: not hidden, nor what macOS adds to zip archives."""
    return not name.startswith(".") and name != "__MACOSX"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, however compressed, or a zip archive into `folder`, and nothing outside it.

    Raises:
        UserError: it is neither or damaged, or a member is a link or a device or lies outside.
    """
    with damage_told(archive):
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar, writing_errors(folder):
                tar.extractall(folder, filter=_plain_data)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file, writing_errors(folder):
                for member in file.infolist():
                    _check_zip_member(archive, member)
                file.extractall(folder)
        else:
            raise UserError(f"{archive}: neither a tar nor a zip archive, or damaged")


def _plain_data(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Tar's `data` filter without links: chains of them got around it in Python before 3.11.13 (CVE-2025-4517)."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)


def _check_zip_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse what does not unpack as a plain file below the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise UserError(f"{archive}: member {member.filename!r} lies outside the archive's folder")
    if member.flag_bits & 1:
        raise UserError(f"{archive}: member {member.filename!r} is encrypted")


@contextlib.contextmanager
def damage_told(archive: Path) -> Iterator[None]:
    """Turn what the readers raise on a damaged or hostile archive into a `UserError`."""
    try:
        yield
    except tarfile.SpecialFileError as error:
        raise UserError(
            f"{archive}: member {error.tarinfo.name!r} is a link or a device; only files and folders are allowed"
        ) from error
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: member {error.tarinfo.name!r} lies outside the archive's folder") from error
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise UserError(f"{archive}: damaged or not such an archive ({reason})") from error
    except OSError as error:
        if error.errno is not None:  # the readers' own complaints carry no number
            raise UserError(f"{archive}: cannot be read ({error.strerror})") from error
        raise UserError(f"{archive}: damaged ({error})") from error
