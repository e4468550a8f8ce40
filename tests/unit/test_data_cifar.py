"""CIFAR-10 and CIFAR-100 from small archives made here, well-formed, damaged and hostile ones."""

import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import refusal
from helpers.cifar import FOLDERS, NAMES, add, archive, cifar10_contents, cifar100_contents, python2, python3, rows

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import archives, cifar, prepared
from smallbatch.data.download import md5_of


def prepare(path: Path, source: str = "cifar10") -> prepared.Prepared:
    folder = path.parent / "prepared"
    settings = {"source": source, "archive": str(path), "md5": md5_of(path), "label": "small"}
    data.prepare("small", settings, folder, path.parent / "downloads")
    return prepared.read(folder)


def refused(path: Path, *parts: str, source: str = "cifar10") -> None:
    with refusal(path, *parts):
        prepare(path, source)
    assert not (path.parent / "prepared").exists()


@pytest.mark.parametrize("dump", [python2, python3])
def test_cifar10_keeps_order_pixels_and_labels(tmp_path: Path, dump: Callable) -> None:
    contents = cifar10_contents()
    found = prepare(archive(tmp_path, contents, dump=dump))
    batches = [contents[f"data_batch_{i}"] for i in range(1, 6)]
    np.testing.assert_array_equal(
        found.train.images, np.concatenate([batch[b"data"] for batch in batches]).reshape(15, 3, 32, 32)
    )
    assert found.train.labels.tolist() == [label for batch in batches for label in batch[b"labels"]]
    np.testing.assert_array_equal(found.test.images.reshape(3, 3072), contents["test_batch"][b"data"])
    assert found.test.labels.tolist() == contents["test_batch"][b"labels"]
    assert found.train.labels.dtype == np.int64
    assert found.meta.classes == tuple(f"class {i}" for i in range(10))
    assert found.meta.label == "small"


def test_planes_are_red_green_blue_and_rows_run_first(tmp_path: Path) -> None:
    contents = cifar10_contents()
    image = np.zeros(3072, np.uint8)
    image[1024 + 5 * 32 + 7] = 200  # green, row 5, column 7
    contents["data_batch_1"][b"data"][0] = image
    found = prepare(archive(tmp_path, contents)).train.images[0]
    assert found[1, 5, 7] == 200
    assert found.sum() == 200


@pytest.mark.parametrize("dump", [python2, python3])
def test_an_array_in_column_order_is_the_same_data(tmp_path: Path, dump: Callable) -> None:
    contents = cifar10_contents()
    straight = prepare(archive(tmp_path, contents)).meta.fingerprint
    for content in contents.values():
        if b"data" in content:
            content[b"data"] = np.asfortranarray(content[b"data"])
    assert prepare(archive(tmp_path, contents, dump=dump)).meta.fingerprint == straight


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    contents = cifar100_contents()
    found = prepare(archive(tmp_path, contents, "cifar100", python2), "cifar100")
    assert found.meta.classes == tuple(f"fine {i}" for i in range(100))
    assert found.train.labels.tolist() == [99, 0, 50, 7]
    np.testing.assert_array_equal(found.test.images.reshape(4, 3072), contents["test"][b"data"])


def test_members_may_stand_in_any_order_and_below_a_dot(tmp_path: Path) -> None:
    contents = cifar10_contents()
    straight = prepare(archive(tmp_path, contents)).meta.fingerprint
    backwards = dict(reversed(contents.items()))
    with tarfile.open(tmp_path / "dot.tar.gz", "w:gz") as tar:
        for name, content in backwards.items():
            add(tar, f"./{FOLDERS['cifar10']}/{name}", python3(content))
    assert prepare(tmp_path / "dot.tar.gz").meta.fingerprint == straight


def test_the_download_goes_to_the_official_place_with_the_official_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, calls = archive(tmp_path, cifar10_contents()), []

    def fetch(*arguments: object) -> Path:
        calls.append(arguments)
        return small

    monkeypatch.setattr(cifar, "fetch", fetch)
    data.prepare("cifar10", {"source": "cifar10"}, tmp_path / "prepared", tmp_path / "downloads")
    name = "cifar-10-python.tar.gz"
    url, md5 = f"https://www.cs.toronto.edu/~kriz/{name}", "c58f30108f718f92721af3b95e74349a"
    assert calls == [(url, tmp_path / "downloads" / name, md5)]


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.tar.gz"
    with pytest.raises(UserError, match="no such file") as caught:
        data.prepare("cifar10", {"source": "cifar10", "archive": str(path)}, tmp_path / "out", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_another_md5_than_the_official_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    path = archive(tmp_path, cifar10_contents())
    with pytest.raises(UserError) as caught:
        data.prepare("cifar10", {"source": "cifar10", "archive": str(path)}, tmp_path / "out", tmp_path)
    assert str(caught.value).startswith(f"{path}: md5 is {md5_of(path)}, expected {data.ORIGINAL_MD5['cifar10']}")
    assert path.exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_named(tmp_path: Path, part: float) -> None:
    path = archive(tmp_path, cifar10_contents(), dump=python2)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, "damaged")


def test_changed_bytes_within_an_archive_are_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path, cifar10_contents())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("content", [b"", b"no archive at all", bytes(10_240)])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small.tar.gz"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_missing_member_is_named(tmp_path: Path, name: str) -> None:
    contents = cifar10_contents()
    del contents[name]
    refused(archive(tmp_path, contents), f"has no member cifar-10-batches-py/{name}")


def with_labels(labels: Any) -> dict[str, Any]:
    return {b"data": rows(0, 3), b"labels": labels}


def with_data(array: Any) -> dict[str, Any]:
    return {b"data": array, b"labels": [0, 1, 2]}


WRONG_BATCHES = {
    "no data": ({b"labels": [0, 1, 2]}, "data is not an array"),
    "width": (with_data(np.zeros((3, 3071), np.uint8)), "(3, 3071)"),
    "four axes": (with_data(np.zeros((3, 3, 32, 32), np.uint8)), "data is not an array [n, 3072] of uint8"),
    "floats": (with_data(np.zeros((3, 3072), np.float32)), "of uint8"),
    "signed": (with_data(np.zeros((3, 3072), np.int8)), "of uint8"),
    "objects": (with_data(np.full((3, 3072), None)), "of uint8"),
    "a list": (with_data([[0] * 3072] * 3), "data is not an array"),
    "too few labels": (with_labels([0, 1]), "found 2 of them, expected a list of 3"),
    "too many labels": (with_labels([0, 1, 2, 3]), "found 4 of them"),
    "no labels": ({b"data": rows(0, 3)}, "found NoneType"),
    "label 10": (with_labels([0, 10, 2]), "labels: found 10, expected whole numbers from 0 to 9"),
    "label -1": (with_labels([0, -1, 2]), "found -1"),
    "huge label": (with_labels([0, 1 << 70, 2]), "found 1180591620717411303424"),
    "label True": (with_labels([0, True, 2]), "found True"),
    "label 1.5": (with_labels([0, 1.5, 2]), "found 1.5"),
    "a list in a batch": ([1, 2], "holds a list, expected a dictionary"),
    "no pickle": (b"\x80\x02}q\x00", "refused"),
    "empty": (b"", "refused"),
}


@pytest.mark.parametrize("case", WRONG_BATCHES)
def test_a_wrong_batch_is_named(tmp_path: Path, case: str) -> None:
    content, part = WRONG_BATCHES[case]
    path = archive(tmp_path, cifar10_contents() | {"data_batch_2": content})
    refused(path, f"{path}: cifar-10-batches-py/data_batch_2: ", part)


def test_a_batch_without_images_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, cifar10_contents(per_batch=0), dump=python2)
    refused(path, "cifar-10-batches-py/data_batch_1: data has shape (0, 3072)")


def test_an_array_with_fewer_bytes_than_its_shape_says_is_refused(tmp_path: Path) -> None:
    content = python2({b"data": rows(0, 3), b"labels": [0, 1, 2]})
    longer = content.replace(b"K\x03M\x00\x0c", b"K\x7fM\x00\x0c")  # the shape (3, 3072) becomes (127, 3072)
    assert longer != content
    refused(archive(tmp_path, cifar10_contents() | {"data_batch_2": longer}), "shape (127, 3072) in 9216 bytes")


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (None, "is not a list"),
        ([b"one"], "found 1, expected 10"),
        ([b"same"] * 10, "expected 10 different"),
        ([1] * 10, "is not a list of names"),
        ([b"\xff", *NAMES["cifar10"][1:]], "is not a list of names"),
    ],
)
def test_wrong_class_names_are_refused(tmp_path: Path, names: Any, part: str) -> None:
    contents = cifar10_contents() | {"batches.meta": {b"label_names": names}}
    refused(archive(tmp_path, contents), "batches.meta", part)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.made_of = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.made_of


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was here"
    for function, arguments, name in (
        (os.mkdir, (str(mark),), "mkdir"),
        (os.system, (f"touch '{mark}'",), "system"),
        (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
        (np.memmap, (str(mark), "u1", "w+", 0, (9,)), "memmap"),
        (getattr, (np.ndarray, "tofile"), "getattr"),
    ):
        attack = {b"data": Call(function, *arguments), b"labels": [0]}
        assert pickle.loads(python3(attack))  # it does what it says where nobody stops it
        if mark.exists():
            mark.rmdir() if mark.is_dir() else mark.unlink()
        elif function is not getattr:
            pytest.fail(f"{name} is no attack")
        refused(archive(tmp_path, cifar10_contents() | {"test_batch": attack}), "test_batch", f".{name}")
        assert not mark.exists()


@pytest.mark.parametrize(
    ("hostile", "part"),
    [
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "codec 'rot13'"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.", "codec 'zlib'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "it asks for numpy.ndarray.__class__"),
        (b"cnumpy.core.multiarray\nfrombuffer\n.", "it asks for numpy.core.multiarray.frombuffer"),
        (b"cbuiltins\neval\n.", "it asks for builtins.eval"),
        (b"c__builtin__\neval\n.", "it asks for __builtin__.eval"),
        (b"cos\nsystem\n.", "it asks for os.system"),
        (b"\x82\x01.", "unregistered extension code 1"),
        (b"Pid\n.", "persistent id"),
        (b"cnumpy\nndarray\n(I-5\ntR.", "refused"),
        (b"cnumpy\nndarray\n}b.", "refused"),
        (b"cnumpy\ndtype\n.", "expected a dictionary"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path: Path, hostile: bytes, part: str) -> None:
    path = archive(tmp_path, cifar10_contents() | {"test_batch": hostile})
    refused(path, "cifar-10-batches-py/test_batch: ", part)


def test_admitted_globals_are_not_those_that_they_name() -> None:
    """A crafted state must not reach NumPy, whose own unpickling trusts it."""
    admitted = {id(value) for value in cifar._ADMITTED.values()}
    real = (np.ndarray, np.dtype, np._core.multiarray._reconstruct)
    assert not admitted & {id(value) for value in real}


def special(kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    contents = cifar10_contents()
    del contents["test_batch"]
    with tarfile.open(tmp_path / "small.tar", "w") as tar:
        tar.addfile(special(kind))
        for name, content in contents.items():
            add(tar, f"cifar-10-batches-py/{name}", python3(content))
    refused(tmp_path / "small.tar", "cifar-10-batches-py/test_batch is not a regular file")


def test_a_member_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    refused(archive(tmp_path, cifar10_contents()), "data_batch_1 has", "bytes, allowed are 100")


def test_nothing_of_an_archive_is_written_to_disk(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "small.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        add(tar, "../evil", b"x")
        add(tar, str(tmp_path / "evil"), b"x")
        for name, content in cifar10_contents().items():
            add(tar, f"cifar-10-batches-py/{name}", python3(content))
    prepare(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["inner"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["prepared", "small.tar"]
