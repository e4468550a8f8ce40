"""Archives of image folders: as good as their folders, however hostile."""

import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import SIZE, divided, flat, made, prepare, refused, unreadable

from smallbatch.core.errors import UserError
from smallbatch.data import archives, folder_listing, prepared


def tarred(root: Path, path: Path, top: str) -> None:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as tar:
        tar.add(root, top)


def zipped(root: Path, path: Path, top: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for entry in sorted(root.rglob("*")):
            file.write(entry, Path(top) / entry.relative_to(root))
        file.writestr("__MACOSX/photos/train/cat/._00.png", b"x")
        file.writestr(".DS_Store", b"x")


ARCHIVES: list[tuple[str, Callable[[Path, Path, str], None]]] = [
    ("photos.tar", tarred),
    ("photos.tar.gz", tarred),
    ("photos.tar.xz", tarred),
    ("photos.zip", zipped),
]


@pytest.mark.parametrize("top", [".", "photos"])
@pytest.mark.parametrize(("name", "pack"), ARCHIVES)
def test_an_archive_is_as_good_as_its_folder(tmp_path: Path, name: str, pack: Callable, top: str) -> None:
    root = divided(tmp_path / "photos")
    expected = prepare(root).meta
    pack(root, tmp_path / name, top)
    shutil.rmtree(root)
    assert prepare(tmp_path / name).meta == expected


def test_errors_within_an_archive_name_the_archive(tmp_path: Path) -> None:
    root = unreadable(divided(tmp_path / "photos"))
    tarred(root, tmp_path / "photos.tar", "photos")
    refused(tmp_path / "photos.tar", "photos.tar: train/cat/01.png is a broken image")


@pytest.mark.parametrize(("name", "pack"), ARCHIVES)
def test_a_truncated_archive_is_named(tmp_path: Path, name: str, pack: Callable) -> None:
    root = divided(tmp_path / "photos")
    pack(root, tmp_path / name, "photos")
    content = (tmp_path / name).read_bytes()
    for part in (0, 10, len(content) // 2):
        (tmp_path / name).write_bytes(content[:part])
        refused(tmp_path / name, "damaged")


def test_changed_bytes_in_an_archive_are_noticed(tmp_path: Path) -> None:
    zipped(divided(tmp_path / "photos"), tmp_path / "photos.zip", "photos")
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    place = content.index(b"IDAT") + 6
    content[place : place + 4] = b"oops"
    (tmp_path / "photos.zip").write_bytes(content)
    refused(tmp_path / "photos.zip", "damaged")


def test_the_watch_on_an_archive_is_on_its_size_and_time(tmp_path: Path) -> None:
    tarred(divided(tmp_path / "photos"), tmp_path / "photos.tar", "photos")
    first = folder_listing.stat_digest(str(tmp_path / "photos.tar"))
    assert first == folder_listing.stat_digest(str(tmp_path / "photos.tar"))
    os.utime(tmp_path / "photos.tar", ns=(0, 0))
    assert folder_listing.stat_digest(str(tmp_path / "photos.tar")) != first


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "part"),
    [
        (tarfile.TarInfo("../../evil"), "member '../../evil' lies outside"),
        (link("train/cat/a.png", "/etc/passwd"), "'train/cat/a.png' is a link"),
        (link("train/cat/a.png", "00.png"), "'train/cat/a.png' is a link"),
        (link("train/cat/a.png", "train/cat/00.png", tarfile.LNKTYPE), "'train/cat/a.png' is a link"),
        (link("train/cat/a.png", "", tarfile.FIFOTYPE), "'train/cat/a.png' is a link or a device"),
        (link("train/cat/a.png", "", tarfile.CHRTYPE), "'train/cat/a.png' is a link or a device"),
    ],
    ids=["dots", "link outside", "link inside", "hard link", "fifo", "device"],
)
def test_a_hostile_tar_member_is_refused(tmp_path: Path, member: tarfile.TarInfo, part: str) -> None:
    path = tmp_path / "photos.tar"
    tarred(divided(tmp_path / "photos"), path, ".")
    with tarfile.open(path, "a") as tar:
        tar.addfile(member)
    refused(path, part)
    assert not (tmp_path / "evil").exists()


def test_an_absolute_tar_member_lands_nowhere_but_inside(tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    tarred(divided(tmp_path / "photos"), path, ".")
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo(str(tmp_path / "evil.png")))
    prepare(path)
    assert not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize("name", ["../../evil", "/evil", "train/../../../evil", "..\\..\\evil", "C:\\evil", "c:/evil"])
def test_a_hostile_zip_member_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    refused(path, f"member {name!r} lies outside the archive's folder")
    assert not list(tmp_path.rglob("evil"))


def test_a_zip_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr(file.infolist()[-1].filename, b"x")
    refused(path, "stands twice; allowed: each file once")


def test_a_zip_member_that_stands_twice_in_two_spellings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    with zipfile.ZipFile(path, "a") as file:
        name = next(entry for entry in file.namelist() if entry.endswith(".png"))
        file.writestr(f"./{name}", b"x")
    refused(path, f"member {name!r} stands twice; allowed: each file once")


@pytest.mark.parametrize("name", ["./", "./train/"])
def test_a_zip_may_list_its_own_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"")
    assert prepare(path).meta.train > 0


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the first entry of the table of contents
    path.write_bytes(content)
    refused(path, "is encrypted")


def zip_of(path: Path, names: list[bytes], flags: int = 0, system: int = 3) -> Path:
    """A zip archive with an image under each of these names, in bytes as they are."""
    content = io.BytesIO()
    flat(0).save(content, "PNG")
    with zipfile.ZipFile(path, "w") as file:
        for place, name in enumerate(names):
            info = zipfile.ZipInfo(f"{place:0{len(name)}}")
            info.create_system = system
            file.writestr(info, content.getvalue())
    data = path.read_bytes()
    for place, name in enumerate(names):
        data = data.replace(f"{place:0{len(name)}}".encode(), name)
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for start in [match.start() for match in re.finditer(mark, data)]:
            data = data[: start + offset] + struct.pack("<H", flags) + data[start + offset + 2 :]
    path.write_bytes(data)
    return path


@pytest.mark.skipif(not shutil.which("localedef"), reason="no localedef, which makes a locale of ISO-8859-1")
@pytest.mark.parametrize("pack", ["folder", "tar", "zip"])
def test_classes_do_not_depend_on_the_locale(tmp_path: Path, pack: str) -> None:
    root = made(tmp_path / "photos", "caf\u00e9/1\u20ac caf\u00e9/2 \U0001f436/1 \U0001f436/2")
    expected = prepare(root, test_fraction=0.5).meta
    path = root if pack == "folder" else tmp_path / f"photos.{pack}"
    if pack != "folder":
        (tarred if pack == "tar" else zipped)(root, path, ".")
    subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US"], check=False, capture_output=True
    )
    script = (
        "import sys; from pathlib import Path; from smallbatch import data; "
        f"settings = {{'source': 'image-folder', 'path': {str(path)!r}, 'size': {SIZE}, 'test_fraction': 0.5}}; "
        "assert sys.getfilesystemencoding() == 'iso8859-1', sys.getfilesystemencoding(); "
        f"data.prepare('pets', settings, Path({str(tmp_path / 'other')!r}), Path())"
    )
    latin = {**os.environ, "LOCPATH": str(tmp_path), "LANG": "en_US", "LC_ALL": "en_US", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", script], env=latin, check=True, capture_output=True)
    assert prepared.read_meta(tmp_path / "other" / "meta.json") == expected


NAMES = {
    "UTF-8 that says so": ("M\u00f6we".encode(), 0x800, "M\u00f6we", ""),
    "UTF-8 as macOS writes it": (unicodedata.normalize("NFD", "M\u00f6we").encode(), 0, "M\u00f6we", ""),
    "code page 437": (
        b"M\x94we",
        0,
        "M\u00f6we",
        r"no encoding of names is said; read as code page 437, such as M\u00f6we/1",
    ),
    "another code page": (b"M\xf6we", 0, "M\u00f7we", "read as code page 437, such as"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_in_a_zip_are_the_same_on_every_machine(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw, flags, name, told = NAMES[kind]
    archive = zip_of(tmp_path / "a.zip", [part + b"/%d.png" % n for part in (raw, b"dog") for n in (1, 2)], flags)
    assert prepare(archive, test_fraction=0.5).meta.classes == tuple(sorted(("dog", name)))
    assert ("code page" in caplog.text) == bool(told)
    assert told in caplog.text.replace("\u00f6", r"\u00f6")


def test_a_zip_with_the_separators_of_windows_is_as_good(tmp_path: Path) -> None:
    names = [part + b"\\%d.png" % number for part in (b"cat", b"dog") for number in (1, 2)]
    assert prepare(zip_of(tmp_path / "a.zip", names, system=0), test_fraction=0.5).meta.classes == ("cat", "dog")


def test_a_zip_whose_names_are_not_what_it_says_is_damaged(tmp_path: Path) -> None:
    refused(zip_of(tmp_path / "a.zip", [b"M\xf6we/1.png"], 0x800), "damaged")


def test_a_link_in_a_zip_is_refused_as_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zipped(divided(tmp_path / "photos"), path, ".")
    info = zipfile.ZipInfo("train/cat/more")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(info, "../../elsewhere")
    refused(path, "member 'train/cat/more' is a link or a device")


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_members_that_become_one_file_are_refused(tmp_path: Path, pack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path / "photos", "a/1 a/2 b/1 b/2 A/3")
    path = tmp_path / f"photos.{pack}"
    (tarred if pack == "tar" else zipped)(root, path, "photos")
    monkeypatch.setattr(archives, "_folds_names", lambda folder: True)
    refused(path, "have one name on this file system", test_fraction=0.5)


def test_names_in_a_tar_that_are_not_text_are_taken(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train" / "cat" / "00.png").rename(root / "train" / "cat" / os.fsdecode(b"\xf6.png"))
    expected = prepare(root).meta
    tarred(root, tmp_path / "photos.tar", "photos")
    assert prepare(tmp_path / "photos.tar").meta == expected


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_bytes_changed_anywhere_in_an_archive_end_in_one_line_or_in_nothing(tmp_path: Path, pack: str) -> None:
    path = tmp_path / f"photos.{pack}"
    (tarred if pack == "tar" else zipped)(made(tmp_path / "photos", "a/1 a/2 b/1 b/2"), path, "photos")
    content, draws = path.read_bytes(), np.random.default_rng(0)
    for number in range(300):
        changed = bytearray(content)
        for place in draws.integers(0, len(content), 1 + number % 5):
            changed[place] = draws.integers(256)
        path.write_bytes(changed)
        folder = tmp_path / "unpacked" / str(number)
        folder.mkdir(parents=True)
        with contextlib.suppress(UserError):
            archives.unpack(path, folder)
