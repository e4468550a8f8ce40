"""Files that say of themselves whether they are as they were written."""

import errno
import json
import os
import resource
import time
from pathlib import Path

import pytest

from smallbatch.core.errors import UserError
from smallbatch.core.files import (
    DAY_S,
    check_path_kinds,
    read_json,
    read_sealed,
    remove_abandoned,
    set_aside,
    set_aside_cache_file,
    write_json,
    write_sealed,
)

VALUES = {"accuracy": 0.975, "title": "2⁻⁸", "rows": [1, None, {"nan": 1e-300}]}


def test_a_sealed_file_gives_back_what_was_written(tmp_path):
    write_sealed(tmp_path / "a.json", VALUES)
    assert read_sealed(tmp_path / "a.json") == VALUES


def test_layout_and_order_of_keys_mean_nothing(tmp_path):
    write_sealed(tmp_path / "a.json", VALUES)
    values = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(values.items()))), encoding="utf-8")
    assert read_sealed(tmp_path / "a.json") == VALUES


@pytest.mark.parametrize(
    ("old", "new"), [("0.975", "0.976"), ("null", "true"), ('"title"', '"titel"'), ("rows", "digest"), ("⁸", "⁷")]
)
def test_an_edit_of_a_sealed_file_is_reported(tmp_path, old, new):
    path = tmp_path / "a.json"
    write_sealed(path, VALUES)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json: damaged"):
        read_sealed(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"1", b"\xff", b"[" * 100_000, b'{"digest": 1'])
def test_what_is_no_sealed_file_is_reported(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: "):
        read_sealed(tmp_path / "a.json")


def test_what_stands_where_a_folder_or_a_log_belongs_is_named(tmp_path):
    (tmp_path / "data/digits").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    whole = [tmp_path / "data", tmp_path / "linked/digits", tmp_path / "results/to/come"]
    check_path_kinds(whole, [tmp_path / "data/digits.log", tmp_path / "logs/page.log"])
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, found in (("file", "a file"), ("gone", "a link to nothing")):
        for folder in (tmp_path / name, tmp_path / name / "below/it"):
            with pytest.raises(UserError, match=f"/{name}: {found} stands where a folder is needed; move it away$"):
                check_path_kinds([*whole, folder], [])
    with pytest.raises(UserError, match=r"/digits: a folder stands where a file is needed; move it away$"):
        check_path_kinds(whole, [tmp_path / "file", tmp_path / "data/digits"])


def test_a_file_that_grows_beyond_what_is_allowed_ends_in_one_line(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a\.json: cannot be written: it would be larger than `ulimit -f`, or its"):
            write_json(tmp_path / "a.json", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_is_no_utf8_in_a_name_goes_through_json(tmp_path):
    name = os.fsdecode(b"m\xf6we \xe2\x81\xbb")
    write_json(tmp_path / "f.json", {"name": name})
    assert (tmp_path / "f.json").read_bytes() == '{\n "name": "m\\udcf6we ⁻"\n}\n'.encode()
    assert read_json(tmp_path / "f.json") == {"name": name}


@pytest.mark.parametrize(("make", "what"), [(Path.mkdir, "it is a folder"), (os.mkfifo, "it is no file")])
def test_what_stands_in_place_of_a_json_file_is_named(make, what, tmp_path):
    make(tmp_path / "f.json")
    with pytest.raises(UserError, match=rf"f.json: cannot be read \({what}\); delete it"):
        read_json(tmp_path / "f.json")


def test_of_what_can_be_made_again_only_the_last_that_was_damaged_is_kept(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "made[1].so").write_text(content)
        (tmp_path / "other.so.damaged-1").write_text("of another")
        aside = set_aside_cache_file(tmp_path / "made[1].so")
        (tmp_path / "made[1].so.damaged-7").mkdir(exist_ok=content == "one")
    assert aside.read_text() == "two"
    assert {path.name for path in tmp_path.iterdir()} == {aside.name, "made[1].so.damaged-7", "other.so.damaged-1"}


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_what_lies_on_another_disk_is_set_aside_beside_the_link_to_it(what, tmp_path, monkeypatch):
    """As large data do: a disk ends where the link points to."""

    def rename(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr("os.rename", rename)
    folder = tmp_path / "disk"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/x").write_bytes(b"damaged")
    (tmp_path / "digits").symlink_to(folder)
    path = tmp_path / "digits" / ("meta/x" if what == "a file" else "meta")
    aside = set_aside(path, out_of=tmp_path / "digits")
    assert aside.parent == tmp_path and not path.exists()
    assert (aside if what == "a file" else aside / "x").read_bytes() == b"damaged"


def test_what_a_killed_process_was_writing_goes_a_day_later(tmp_path):
    (tmp_path / "runs.csv").touch()
    (tmp_path / "digits").mkdir()
    (tmp_path / ".digits.abcd1234" / "unpacked").mkdir(parents=True)
    others = [".absent.csv.ztuhvva9", ".my-settings", ".runs.csv.swp", "runs.csv.ztuhvva9"]
    for name in (".runs.csv.ztuhvva9", *others):
        (tmp_path / name).touch()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - DAY_S,) * 2)
    (tmp_path / ".runs.csv.younger1").touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs.csv", "digits", ".runs.csv.younger1", *others}
    remove_abandoned(tmp_path / "none")
