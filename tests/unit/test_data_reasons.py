"""Why a data set has to be prepared, or prepared again; and that it need not be."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallbatch import data
from smallbatch.__main__ import main
from smallbatch.data import imagenet, prepared

DIGITS = {"source": "digits"}
LATER = 2**31 * 10**9
"""A time, in ns, after that of every file here."""


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of eight pictures, four a class."""
    for number in range(8):
        picture(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    return tmp_path / "pets"


def folder_settings(path: Path, **more) -> dict:
    return {"source": "image-folder", "path": str(path), "size": 8, "test_fraction": 0.5} | more


def made(tmp_path: Path, settings: dict, label: str = "mine") -> Path:
    """Prepare a data set; nothing speaks for doing it again."""
    folder = tmp_path / "data" / label
    data.prepare(label, settings, folder, tmp_path / "downloads")
    assert data.reason_to_prepare(label, settings, folder) is None
    return folder


def reason(settings: dict, folder: Path, label: str = "mine") -> str:
    found = data.reason_to_prepare(label, settings, folder)
    assert found is not None and "\n" not in found
    return found


@pytest.mark.parametrize("name", [prepared.META, *prepared.ARRAYS])
def test_a_file_that_is_missing_cut_or_no_file(name: str, tmp_path: Path) -> None:
    folder = made(tmp_path, DIGITS)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-3])
    assert reason(DIGITS, folder).startswith(f"{folder / name}: ")
    (folder / name).unlink()
    assert reason(DIGITS, folder).startswith(f"{folder / name}: missing")
    (folder / name).mkdir()
    assert reason(DIGITS, folder).startswith(f"{folder / name}: ")


def test_an_array_is_read_through_only_where_it_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path, DIGITS)
    file = folder / "train_images.npy"
    whole = file.read_bytes()
    os.utime(file, ns=(LATER, LATER))
    assert data.reason_to_prepare("mine", DIGITS, folder) is None, "touched, and the same"
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(file, ns=(LATER, LATER))
    assert "its content is not what was written" in reason(DIGITS, folder)
    file.write_bytes(whole)
    written = (folder / prepared.META).stat().st_mtime_ns
    os.utime(file, ns=(written, written))
    monkeypatch.setattr(prepared, "sha256", lambda path: pytest.fail(f"{path} is read"))
    assert data.reason_to_prepare("mine", DIGITS, folder) is None


def test_another_label_or_setting(pets: Path, tmp_path: Path) -> None:
    settings = folder_settings(pets)
    folder = made(tmp_path, settings)
    assert data.reason_to_prepare("mine", settings | {"label": "mine"}, folder) is None
    assert reason(settings, folder, "yours") == f"{folder}: holds mine"
    assert reason(settings | {"size": 16}, folder) == f"{folder}: prepared with size: 8, which is now 16"
    assert "mode: None, which is now 'L'" in reason(settings | {"mode": "L"}, folder)
    settings.pop("test_fraction")
    assert "test_fraction: 0.5, which is now None" in reason(settings, folder)
    assert "source: 'image-folder', which is now 'digits'" in reason(DIGITS, folder)


def added(root: Path) -> None:
    picture(root / "cat" / "9.png", 9)


def removed(root: Path) -> None:
    (root / "cat" / "0.png").unlink()


def renamed(root: Path) -> None:
    (root / "cat" / "0.png").rename(root / "dog" / "0.png")


def touched(root: Path) -> None:
    """What an edit that keeps the size does."""
    os.utime(root / "cat" / "0.png", ns=(LATER, LATER))


@pytest.mark.parametrize("change", [added, removed, renamed, touched])
def test_pictures_that_changed_since(change, pets: Path, tmp_path: Path) -> None:
    settings = folder_settings(pets)
    folder = made(tmp_path, settings)
    change(pets)
    assert reason(settings, folder) == f"{pets}: files were added, changed or removed since it was prepared"
    made(tmp_path, settings)


def test_an_archive_that_changed_since(pets: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", pets))
    folder = made(tmp_path, folder_settings(archive))
    os.utime(archive, ns=(LATER, LATER))
    assert "files were added, changed or removed" in reason(folder_settings(archive), folder)


def test_pictures_that_lie_elsewhere_or_are_gone(pets: Path, tmp_path: Path) -> None:
    folder = made(tmp_path, folder_settings(pets))
    moved = pets.rename(tmp_path / "disk")
    assert data.reason_to_prepare("mine", folder_settings(pets), folder) is None, "the disk is not there now"
    assert data.reason_to_prepare("mine", folder_settings(moved), folder) is None, "the same files"
    nowhere = tmp_path / "dsik"
    assert reason(folder_settings(nowhere), folder) == f"{nowhere}: prepared from path: {str(pets)!r}"


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_photos_in_folders_are_not_watched_but_read_where_they_were(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            picture(tmp_path / "net" / split / f"n{number}" / f"{number}.JPEG", number)
    settings = {"source": "imagenet", "path": str(tmp_path / "net"), "label": "mine"}
    folder = made(tmp_path, settings)
    picture(tmp_path / "net" / "train" / "n1" / "9.JPEG", 9)
    assert data.reason_to_prepare("mine", settings, folder) is None
    (tmp_path / "net").rename(tmp_path / "disk")
    assert data.reason_to_prepare("mine", settings, folder) is None
    elsewhere = settings | {"path": str(tmp_path / "disk")}
    assert "prepared from path" in reason(elsewhere, folder), "photos are read from where they were"


def test_archives_of_photos_are_watched(tmp_path: Path) -> None:
    settings = {"source": "imagenet", "path": str(tmp_path)}
    seen = [imagenet.stat_digest(settings)]
    for content in ("a", "ab"):
        (tmp_path / imagenet.VALIDATION).write_text(content)
        seen.append(imagenet.stat_digest(settings))
    assert seen[0] is None and len(set(seen)) == 3


def test_a_cifar_archive_may_lie_anywhere_but_has_its_md5(tmp_path: Path) -> None:
    pixels = prepared.Split(np.zeros((2, 3, 32, 32), np.uint8), np.zeros(2, np.int64))
    settings = {"source": "cifar10", "archive": "here.tar.gz", "md5": "0" * 32}
    prepared.write(tmp_path, "mine", ("a", "b"), pixels, pixels, settings=settings)
    assert data.reason_to_prepare("mine", settings | {"archive": "there.tar.gz"}, tmp_path) is None
    assert "prepared with md5" in reason(settings | {"md5": "1" * 32}, tmp_path)


@pytest.fixture
def shell(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """`python -m smallbatch ...` in a project; returns what it says."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> str:
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["smallbatch", *arguments])
        with caplog.at_level("INFO"), suppress(SystemExit):
            main()
        return caplog.text

    return run


def test_prepare_checks_and_mends_and_train_refuses(shell: Callable[..., str]) -> None:
    file = Path("data/digits/test_images.npy")
    assert "test images" in shell("prepare") and "prepared again" not in shell("prepare")
    whole, times = file.read_bytes(), file.stat()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{file}: damaged" in shell("train") and not Path("results/runs").exists()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as when the disk has changed it
    said = shell("prepare")
    assert f"{file}: damaged" in said and "prepared again" in said
    assert file.read_bytes() == whole and Path("data/digits.test_images.npy.damaged-1").exists()
