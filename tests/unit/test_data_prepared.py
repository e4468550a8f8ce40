"""Prepared arrays, and the digits."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smallbatch import data
from smallbatch.core import files
from smallbatch.core.errors import UserError
from smallbatch.core.files import write_sealed
from smallbatch.data import prepared
from smallbatch.data.prepared import Split

CLASSES = ("cat", "dog")


def splits(seed: int = 0) -> tuple[Split, Split]:
    """A train split of 6 and a test split of 4 images of 3x5x4 noise."""
    noise = np.random.default_rng(seed)
    train, test = (Split(noise.integers(0, 256, (count, 3, 5, 4), np.uint8), np.arange(count) % 2) for count in (6, 4))
    return train, test


def changed(split: Split, kind: str, place: int) -> Split:
    """The split with one number of it another."""
    array = getattr(split, kind).copy()
    array.flat[place] = 1 - array.flat[place] if kind == "labels" else array.flat[place] ^ 1
    return replace(split, **{kind: array})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    train, test = splits()
    meta = prepared.write(tmp_path, "pets", CLASSES, train, test)
    found = prepared.read(tmp_path)
    assert found.meta == meta == prepared.read_meta(tmp_path / prepared.META)
    assert (meta.label, meta.classes, meta.shape, meta.train, meta.test) == ("pets", CLASSES, (3, 5, 4), 6, 4)
    for written, read in ((train, found.train), (test, found.test)):
        np.testing.assert_array_equal(read.images, written.images)
        np.testing.assert_array_equal(read.labels, written.labels)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_statistics_are_those_of_numpy_whatever_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = splits()[0].images
    monkeypatch.setattr(prepared, "CHUNK_VALUES", chunk * images[0].size)
    mean, std = prepared.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    assert (mean, std) == prepared.channel_statistics(images)


def test_statistics_by_hand() -> None:
    images = np.zeros((2, 1, 1, 2), np.uint8)
    images[1] = 255
    assert prepared.channel_statistics(images) == ((0.5,), (0.5,))


def test_statistics_are_of_the_training_split(tmp_path: Path) -> None:
    train, test = splits()
    meta = prepared.write(tmp_path, "pets", CLASSES, train, test)
    np.testing.assert_allclose(meta.mean, (train.images / 255).mean(axis=(0, 2, 3)))


def test_the_fingerprint_is_that_of_the_data(tmp_path: Path) -> None:
    first = prepared.write(tmp_path / "a", "pets", CLASSES, *splits())
    assert prepared.write(tmp_path / "b", "other label", list(CLASSES), *splits()).fingerprint == first.fingerprint


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize(("kind", "place"), [("images", 0), ("images", -1), ("labels", 0), ("labels", -1)])
def test_the_fingerprint_sees_one_changed_number(which: str, kind: str, place: int) -> None:
    train, test = splits()
    before = prepared.fingerprint(CLASSES, train, test)
    if which == "train":
        train = changed(train, kind, place)
    else:
        test = changed(test, kind, place)
    assert prepared.fingerprint(CLASSES, train, test) != before


def test_the_fingerprint_sees_names_shapes_and_which_split_is_which() -> None:
    train, test = splits()
    before = prepared.fingerprint(CLASSES, train, test)
    flat = Split(train.images.reshape(6, 3, 4, 5), train.labels)
    others = [
        prepared.fingerprint(("dog", "cat"), train, test),
        prepared.fingerprint(CLASSES, test, train),
        prepared.fingerprint(CLASSES, flat, test),
        prepared.fingerprint(CLASSES, Split(train.images[:5], train.labels[:5]), test),
    ]
    assert len({before, *others}) == 5


def test_the_fingerprint_does_not_depend_on_memory_layout() -> None:
    train, test = splits()
    turned = Split(np.asfortranarray(train.images), train.labels)
    assert prepared.fingerprint(CLASSES, turned, test) == prepared.fingerprint(CLASSES, train, test)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(folder: Path) -> str:
    """Read, expecting one line that begins with the folder."""
    with pytest.raises(UserError) as caught:
        prepared.read(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message


@pytest.mark.parametrize("damage", ["", '{"label": "pets"', '{"label": "pets"}', "[1, 2]", "\0", "[" * 10_000])
def test_a_damaged_meta_is_named_and_set_aside(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "pets"
    prepared.write(folder, "pets", CLASSES, *splits())
    (folder / prepared.META).write_text(damage)
    message, beside = refused(folder), tmp_path / "pets.meta.json.damaged-1"
    assert message.startswith(f"{folder / prepared.META}: ")
    assert message.endswith(f"; set aside as {beside}; the next call prepares the data set again")
    assert beside.read_text() == damage and not (folder / prepared.META).exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("std", [0.1, 0.2, 0.3]), ("classes", ["dog", "cat"]), ("train", 5), ("fingerprint", "0" * 64), ("files", {})],
)
def test_an_edited_meta_is_not_believed(tmp_path: Path, key: str, value: object) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    path = tmp_path / prepared.META
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=r"meta.json: damaged or edited"):
        prepared.read_meta(path)
    assert path.exists(), "a look sets nothing aside"
    refused(tmp_path)


def test_a_meta_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    path = tmp_path / prepared.META
    new = ("files", "settings", "digest")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in new}))
    assert "of an earlier version" in refused(tmp_path)
    assert path.exists(), "it is not damaged"


def test_a_sealed_file_of_another_kind_is_no_meta(tmp_path: Path) -> None:
    write_sealed(tmp_path / prepared.META, {"colour": 1})
    assert "not of a data set" in refused(tmp_path)


def turned(content: bytes) -> bytes:
    """One bit of the last number is another."""
    return content[:-1] + bytes([content[-1] ^ 1])


def other_labels(content: bytes) -> bytes:
    """The same labels in another order."""
    return content[:128] + content[-8:] + content[128:-8]


DAMAGES = {
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "one bit": turned,
    "shuffled": other_labels,
    "huge": lambda content: content.replace(b"'shape': (", b"'shape': (9999999999999, ").replace(b" " * 15, b"", 1),
    "objects": lambda content: re.sub(rb"'descr': '...'", b"'descr': '|O'", content, count=1),
    "code": lambda content: content.replace(b"{'descr'", b"exit(1),", 1),
    "by columns": lambda content: content.replace(b"False", b"True ", 1),
    "deep": lambda content: content[:10] + b"(" * 118 + content[128:],
}


@pytest.mark.parametrize("name", prepared.ARRAYS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_named_and_set_aside(tmp_path: Path, name: str, damage: str) -> None:
    folder, beside = tmp_path / "pets", tmp_path / f"pets.{name}.damaged-1"
    prepared.write(folder, "pets", CLASSES, *splits())
    before = files_in(folder)
    content = DAMAGES[damage](before[name])
    assert content != before[name]
    (folder / name).write_bytes(content)
    message = refused(folder)
    assert message.startswith(f"{folder / name}: damaged (")
    assert message.endswith(f"; set aside as {beside}; the next call prepares the data set again")
    assert beside.read_bytes() == content
    assert "missing" in refused(folder), "the data set no longer counts as prepared"
    prepared.write(folder, "pets", CLASSES, *splits())
    assert files_in(folder) == before, "DVC pulls into no folder with files that it does not know"


def test_damaged_arrays_are_found_before_they_are_prepared_again(tmp_path: Path) -> None:
    meta, name = prepared.write(tmp_path, "pets", CLASSES, *splits()), prepared.ARRAYS[1]
    content = (tmp_path / name).read_bytes()
    assert prepared.damaged_arrays(tmp_path) == [] and prepared.damage(tmp_path, meta) is None
    (tmp_path / name).write_bytes(turned(content))
    os.utime(tmp_path / name, (2e9, 2e9))
    (tmp_path / prepared.ARRAYS[2]).unlink()
    assert prepared.damaged_arrays(tmp_path) == [tmp_path / name]
    assert prepared.damage(tmp_path, meta).startswith(f"{tmp_path / name}: damaged (")
    (tmp_path / prepared.META).write_bytes(b"{}")
    assert prepared.damaged_arrays(tmp_path) == []


def test_a_header_as_of_python_2_is_damage_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    path = tmp_path / "train_labels.npy"
    path.write_bytes(re.sub(rb"\((\d+),\), }  ", rb"(\1L,), } ", path.read_bytes(), count=1))
    assert b"L,)" in path.read_bytes()[:128]
    assert refused(tmp_path).startswith(f"{path}: damaged (its header cannot be read: Reading `.npy`")
    assert not recwarn.list


@pytest.mark.parametrize("name", [*prepared.ARRAYS, prepared.META])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    (tmp_path / name).unlink()
    assert refused(tmp_path).startswith(f"{tmp_path / name}: missing")


@pytest.mark.parametrize("name", [*prepared.ARRAYS, prepared.META])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_set_aside_and_replaced(tmp_path: Path, name: str, make: Callable) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    (tmp_path / name).unlink()
    make(tmp_path / name)
    assert "not a file" in refused(tmp_path)
    make(tmp_path / name)
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    prepared.read(tmp_path)


def test_swapped_arrays_are_found(tmp_path: Path) -> None:
    for label, seed in (("a", 0), ("b", 1)):
        prepared.write(tmp_path / label, label, CLASSES, *splits(seed))
    swapped = (tmp_path / "b" / "train_images.npy").read_bytes()
    (tmp_path / "a" / "train_images.npy").write_bytes(swapped)
    assert "its content is not what was written" in refused(tmp_path / "a")


def test_what_cannot_be_set_aside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, out_of: Path) -> Path:
        raise UserError(f"{path}: cannot be written: the file system is read-only")

    prepared.write(tmp_path, "pets", CLASSES, *splits())
    file = tmp_path / "test_labels.npy"
    file.write_bytes(turned(file.read_bytes()))
    before = files_in(tmp_path)
    monkeypatch.setattr(prepared, "set_aside", read_only)
    assert refused(tmp_path).endswith("it cannot be set aside; prepare the data set again")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("label", [-1, 2, 2**40])
def test_labels_beyond_the_classes_are_refused_before_anything_is_written(tmp_path: Path, label: int) -> None:
    train, test = splits()
    test.labels[3] = label
    with pytest.raises(UserError, match=r"^pets: its test labels go from .*; allowed: 0 to 1, its classes$"):
        prepared.write(tmp_path / "pets", "pets", CLASSES, train, test)
    assert not (tmp_path / "pets").exists()
    with pytest.raises(UserError, match="its train labels are float64"):
        prepared.Prepared(
            prepared.write(tmp_path, "pets", CLASSES, *splits()), Split(train.images, test.images / 1), test
        )


def same(one: prepared.Prepared, other: prepared.Prepared) -> bool:
    """Whether all numbers and all that is known of them are equal."""
    pairs = [(getattr(one, split), getattr(other, split)) for split in prepared.SPLITS]
    equal = [np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pairs]
    return one.meta == other.meta and all(equal)


def test_whatever_becomes_of_a_byte_nothing_else_is_read(tmp_path: Path) -> None:
    """Bytes changed, cut out or put in, anywhere: refused in one line. Unchanged, the arrays are those written."""
    original = prepared.Prepared(prepared.write(tmp_path, "pets", CLASSES, *splits()), *splits())
    before, draws, refusals = files_in(tmp_path), np.random.default_rng(0), 0
    for _ in range(400):
        name = str(draws.choice(sorted(before)))
        content = bytearray(before[name])
        # Mostly in the header, which is what is parsed.
        start = int(draws.integers(len(content) if draws.random() < 0.3 else min(len(content), 128)))
        length = int(draws.integers(4))
        content[start : start + length] = draws.bytes(int(draws.integers(4)))
        for path in tmp_path.iterdir():
            path.unlink()
        for other, whole in before.items():
            (tmp_path / other).write_bytes(whole if other != name else content)
        try:
            found = prepared.read(tmp_path)
        except UserError as error:
            assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
            refusals += 1
            continue
        assert name == prepared.META or content == before[name], "only white space of JSON may differ"
        assert same(found, original)
    assert 350 < refusals < 400


def test_meta_is_plain_json(tmp_path: Path) -> None:
    meta = prepared.write(tmp_path, "pets", CLASSES, *splits())
    fields = json.loads((tmp_path / prepared.META).read_text())
    assert fields["fingerprint"] == meta.fingerprint
    assert fields["shape"] == [3, 5, 4]
    assert fields["files"] == {name: files.sha256(tmp_path / name) for name in prepared.ARRAYS}


def test_floats_are_kept_as_they_are_with_statistics_of_their_own(tmp_path: Path) -> None:
    images = np.zeros((4, 3, 1, 2), np.float32)
    images[:, 0] = 1e6 + 0.3  # constant, and no number of few digits
    images[:, 1, 0, :] = [[1, 1], [1, 1], [5, 5], [5, 5]]
    images[:, 2, 0, :] = [[-2, 2], [-2, 2], [-4, 4], [-4, 4]]
    train, test = prepared.Split(images, np.array([0, 0, 1, 1])), prepared.Split(images[:1], np.array([1]))
    meta = prepared.write(tmp_path, "table", ["a", "b"], train, test)
    assert meta.mean == (np.float32(1e6 + 0.3), 3, 0) and meta.std == (0, 2, np.float32(np.sqrt(10)))
    assert (meta.dtype, meta.value_bytes, meta.shape) == ("float32", 4, (3, 1, 2))
    found = prepared.read(tmp_path)
    assert found.meta == meta and found.train.images.dtype == np.float32
    assert np.array_equal(found.train.images, images) and np.array_equal(found.test.images, images[:1])
    same_values = [prepared.Split((s.images > 0).astype(np.uint8), s.labels) for s in (train, test)]
    as_floats = [prepared.Split(s.images.astype(np.float32), s.labels) for s in same_values]
    assert prepared.fingerprint("ab", *same_values) != prepared.fingerprint("ab", *as_floats)


def test_statistics_of_floats_do_not_depend_on_how_many_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).normal(7, 3, (50, 2, 3, 3)).astype(np.float32)
    monkeypatch.setattr(prepared, "CHUNK_VALUES", 40)
    mean, std = prepared.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3), np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 2, 3), np.float64), rtol=1e-6)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> prepared.Prepared:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    data.prepare("digits", {"source": "digits"}, folder, folder.parent)
    return prepared.read(folder)


def test_the_fingerprint_of_the_digits_stays_what_it_is(digits: prepared.Prepared) -> None:
    """The names of runs, and so all results there are, depend on it."""
    assert digits.meta.fingerprint == "618f8931ef44f94c1981b59d031a75a3cae9aa71011438454a6b80682de1aece"


def test_digits_have_the_known_numbers(digits: prepared.Prepared) -> None:
    assert (digits.meta.train, digits.meta.test) == (1437, 360)
    assert digits.meta.train == data.known_train_images({"source": "digits"})


def test_each_digit_is_split(digits: prepared.Prepared) -> None:
    train, test = (np.bincount(split.labels, minlength=10) for split in (digits.train, digits.test))
    assert train.sum() + test.sum() == 1797
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.005)


def test_digits_are_grey_and_use_the_whole_range(digits: prepared.Prepared) -> None:
    assert digits.meta.shape == (1, 8, 8)
    assert digits.meta.classes == tuple("0123456789")
    values = np.unique(digits.train.images)
    assert (values.min(), values.max(), len(values)) == (0, 255, 17)
