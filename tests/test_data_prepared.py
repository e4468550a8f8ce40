"""Prepared arrays, and the digits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smallbatch import data
from smallbatch.data import prepared
from smallbatch.data.prepared import Split
from smallbatch.errors import UserError

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


@pytest.mark.parametrize("damage", ["", '{"label": "pets"', '{"label": "pets"}', '{"colour": 1}'])
def test_a_damaged_meta_is_named(tmp_path: Path, damage: str) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    (tmp_path / prepared.META).write_text(damage)
    with pytest.raises(UserError) as caught:
        prepared.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / prepared.META}: damaged")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", prepared.ARRAYS)
def test_a_truncated_or_missing_array_is_named(tmp_path: Path, name: str) -> None:
    prepared.write(tmp_path, "pets", CLASSES, *splits())
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged") as caught:
        prepared.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=name):
        prepared.read(tmp_path)


def test_meta_is_plain_json(tmp_path: Path) -> None:
    meta = prepared.write(tmp_path, "pets", CLASSES, *splits())
    fields = json.loads((tmp_path / prepared.META).read_text())
    assert fields["fingerprint"] == meta.fingerprint
    assert fields["shape"] == [3, 5, 4]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> prepared.Prepared:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    data.prepare("digits", {"source": "digits"}, folder, folder.parent)
    return prepared.read(folder)


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
