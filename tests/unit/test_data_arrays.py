"""Arrays of the user's own: what becomes of them, and what is refused before anything is written."""

import builtins
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import refusal

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import array_files, prepared
from smallbatch.data.dataset_info import image_shape_and_classes, size_of

Arrays = Mapping[str, np.ndarray]


def arrays(kind: str = "uint8", shape: tuple[int, ...] = (3, 4, 5)) -> dict[str, np.ndarray]:
    """Six training images of two classes, image i filled with i; four test images, filled with 100 + i."""
    numbers = {"train": np.arange(6), "test": 100 + np.arange(4)}
    made = {}
    for split, of in numbers.items():
        made[f"{split}_images"] = np.broadcast_to(of.reshape(-1, *[1] * len(shape)), (len(of), *shape)).astype(kind)
        made[f"{split}_labels"] = np.arange(len(of)) % 2
    return made


def saved(path: Path, given: Arrays) -> Path:
    """A file or folder of arrays, by the end of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **given)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in given.items()}, path)
    elif path.suffix in (".h5", ".hdf5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, array in given.items():
                file[name] = array
    else:
        path.mkdir()
        for name, array in given.items():
            np.save(path / f"{name}.npy", array)
    return path


def prepare(path: Path, **settings: Any) -> prepared.Prepared:
    folder = path.parent / "made" / "mine"
    settings = {"source": "arrays", "path": str(path)} | settings
    data.check_settings("config.yaml", "mine", settings)
    size = data.check_source("config.yaml", "mine", settings)
    meta = data.prepare("mine", settings, folder, folder / "downloads")
    assert size is not None and size._replace(a_number=None) == size_of(meta)
    assert (size.a_number is None) == (meta.targets != "numbers")
    assert data.reason_to_prepare("mine", settings, folder) is None
    return prepared.read(folder)


def refused(path: Path, *parts: str, **settings: Any) -> None:
    """By the check before the first job, in one line."""
    with refusal(path, *parts):
        data.check_source("config.yaml", "mine", {"source": "arrays", "path": str(path)} | settings)


FILES = ("mine.npz", "mine", "mine.safetensors", "mine.h5", "mine.hdf5")


@pytest.mark.parametrize("name", FILES)
def test_images_of_each_format_are_prepared_as_they_are(name: str, tmp_path: Path) -> None:
    found = prepare(saved(tmp_path / name, arrays()))
    assert found.meta.classes == ("0", "1") and found.meta.shape == (3, 4, 5) and found.meta.dtype is None
    assert found.train.images.dtype == np.uint8 and found.train.images[:, 2, 3, 4].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0, 1] and found.test.labels.tolist() == [0, 1, 0, 1]
    assert found.test.images[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    splits = [prepared.Split(arrays()[f"{split}_images"], arrays()[f"{split}_labels"]) for split in ("train", "test")]
    assert found.meta.fingerprint == prepared.fingerprint(("0", "1"), *splits), "the same for each format"


@pytest.mark.parametrize("name", FILES)
def test_features_of_each_format_are_channels_of_one_pixel(name: str, tmp_path: Path) -> None:
    given = arrays("float64", (7,))
    given["train_images"][:, 3] = 1 / 3
    found = prepare(saved(tmp_path / name, given))
    assert found.meta.shape == (7, 1, 1) and found.meta.dtype == "float32"
    assert found.train.images.dtype == np.float32 and found.train.images[5, :, 0, 0].tolist() == [
        5, 5, 5, np.float32(1 / 3), 5, 5, 5,
    ]  # fmt: skip
    assert found.meta.mean[0] == 2.5 and found.meta.std[3] == 0


TARGETS = {
    "numbers": ([0.5, 1, 2, 3, 4, 5], [1, 2, 3, 4.5], ("0",), "numbers"),
    "one truth value": ([False, True] * 3, [True, True, True, False], ("0",), "binary"),
    "several": (np.eye(2, dtype=int)[[0, 1, 0, 1, 0, 1]], [[1, 0], [1, 1], [1, 0], [0, 0]], ("0", "1"), "binary"),
    "two numbers": (np.arange(12).reshape(6, 2), np.arange(8.0).reshape(4, 2), ("0", "1"), "numbers"),
}


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("name", FILES)
def test_targets_in_place_of_classes(case: str, name: str, tmp_path: Path) -> None:
    train, test, outputs, kind = TARGETS[case]
    given = arrays() | {"train_labels": np.array(train), "test_labels": np.array(test)}
    found = prepare(saved(tmp_path / name, given))
    assert (found.meta.classes, found.meta.targets) == (outputs, kind)
    assert found.train.labels.dtype == np.float32 and found.train.labels.shape == (6, len(outputs))
    assert np.array_equal(found.test.labels, np.reshape(test, (4, -1)))


def test_a_fraction_of_targets_is_for_testing(tmp_path: Path) -> None:
    given = {"images": arrays()["train_images"], "labels": np.arange(6) / 2}
    found = prepare(saved(tmp_path / "mine.npz", given), test_fraction=1 / 3)
    assert sorted([*found.train.labels[:, 0], *found.test.labels[:, 0]]) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert np.array_equal(2 * found.test.labels[:, 0], found.test.images[:, 0, 0, 0]) and len(found.test.labels) == 2


def test_targets_that_cannot_be_learned_or_scored(tmp_path: Path) -> None:
    def given(train: Any, test: Any) -> Path:
        return saved(tmp_path / "mine.npz", arrays() | {"train_labels": np.array(train), "test_labels": np.array(test)})

    refused(given([0.5, 1, 2, np.nan, 4, 5], [1, 2, 3, 4.0]), "train_labels: has nan in its row 3; allowed: finite")
    refused(
        given(np.ones((6, 2)) / 2, np.ones((4, 3))), "train_labels: float64 [6, 2], and test_labels: float64 [4, 3]"
    )
    refused(given([0.5, 1, 2, 3, 4, 5], [3.5] * 4), "test_labels: output 0 is always 3.5; allowed: one that varies")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4", "<f8"])
def test_floats_become_single_precision(kind: str, tmp_path: Path) -> None:
    found = prepare(saved(tmp_path / "mine.npz", arrays(kind)))
    assert found.train.images.dtype == np.dtype("<f4") and found.train.images[:, 1, 1, 1].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["float64", "int64", "uint32"])
def test_numbers_that_single_precision_does_not_tell_apart_are_refused(kind: str, tmp_path: Path) -> None:
    seconds = np.stack([np.arange(6), 1_700_000_000 + 37 * np.arange(6)], axis=1).astype(kind)
    refused_parts = "floats of 32 bits change column 1 by up to", "allowed: numbers that they tell apart"
    given = {**arrays(), "train_labels": seconds, "test_labels": seconds[:4]}
    refused(saved(tmp_path / "targets.npz", given), *refused_parts)
    if kind == "float64":
        given = {**arrays(), "train_images": seconds, "test_images": seconds[:4]}
        refused(saved(tmp_path / "features.npz", given), *refused_parts)
    nearly_constant = np.stack([np.arange(6) + 0.5, 0.1 + 1e-17 * np.arange(6), 1e9 * np.arange(6)], axis=1)
    prepare(
        saved(
            tmp_path / "near.npz",
            {
                **arrays(),
                "train_images": nearly_constant,
                "test_images": nearly_constant,
                "test_labels": np.arange(6) % 2,
            },
        )
    )


def test_where_channels_are_is_seen_or_said(tmp_path: Path) -> None:
    def shape(*of: int, **settings: Any) -> tuple[int, ...]:
        given = arrays(shape=of)
        given["train_images"][0].flat[:] = np.arange(np.prod(of))
        found = prepare(saved(tmp_path / f"{len(list(tmp_path.iterdir()))}.npz", given), **settings)
        image = given["train_images"][0]
        last = found.meta.shape == (of[-1], *of[:-1]) and settings.get("channels") != "first"
        assert np.array_equal(
            found.train.images[0], image.transpose(2, 0, 1) if last else image.reshape(found.meta.shape)
        )
        return found.meta.shape

    assert shape(3, 5, 7) == (3, 5, 7) and shape(5, 7, 3) == (3, 5, 7) and shape(5, 7, 1) == (1, 5, 7)
    assert shape(5, 7) == (1, 5, 7)
    assert shape(13, 5, 7, channels="first") == (13, 5, 7) and shape(5, 7, 13, channels="last") == (13, 5, 7)
    assert shape(3, 5, 4, channels="last") == (4, 3, 5)


@pytest.mark.parametrize("shape", [(3, 5, 4), (6, 5, 7), (1, 1, 1)])
def test_channels_that_may_be_first_or_last_are_asked_for(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.npz", arrays(shape=shape))
    refused(path, f"channels: None is not allowed; allowed: first or last, since train_images {[6, *shape]}")


def test_arrays_by_other_names_and_in_groups(tmp_path: Path) -> None:
    given = arrays()
    keys = dict(zip(given, ("x_train", "y_train", "x_test", "y_test"), strict=True))
    path = saved(tmp_path / "mine.npz", {keys[name]: array for name, array in given.items()})
    assert prepare(path, keys=keys).meta.fingerprint == prepare(saved(tmp_path / "as", given)).meta.fingerprint
    refused(path, "has no train_images; it has x_test, x_train, y_test, y_train; `keys` says what is what")
    refused(path, "keys.images: 'x' is not allowed; allowed: train_images, ", keys={"images": "x"})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5"])
def test_a_file_for_each_split(suffix: str, tmp_path: Path) -> None:
    given = arrays()
    for split in ("train", "test"):
        both = {"x": given[f"{split}_images"], "labels": given[f"{split}_labels"]}
        saved(tmp_path / "mine" / f"{split}{suffix}", both)
    keys = {"images": "x"}
    found = prepare(tmp_path / "mine", keys=keys)
    assert found.meta.fingerprint == prepare(saved(tmp_path / "as.npz", given)).meta.fingerprint
    refused(
        tmp_path / "mine", "test_fraction: 0.5 is not allowed; allowed: none, since there is test", test_fraction=0.5
    )
    (tmp_path / "mine" / f"test{suffix}").unlink()
    refused(tmp_path / "mine", f"train{suffix} without test{suffix}", keys=keys)


def test_a_fraction_of_each_class_is_for_testing(tmp_path: Path) -> None:
    images = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2), np.uint8)
    path = saved(tmp_path / "mine.npz", {"images": images, "labels": np.arange(30) % 3})
    found = prepare(path, test_fraction=0.2)
    assert np.bincount(found.train.labels).tolist() == [8, 8, 8] and np.bincount(found.test.labels).tolist() == [
        2,
        2,
        2,
    ]
    numbers = [split.images[:, 0, 0, 0].tolist() for split in (found.train, found.test)]
    assert sorted(numbers[0] + numbers[1]) == list(range(30)) and all(of == sorted(of) for of in numbers)
    for of, split in zip(numbers, (found.train, found.test), strict=True):
        assert [number % 3 for number in of] == split.labels.tolist()
    other = prepare(path, test_fraction=0.2, split_seed=1)
    assert other.meta.fingerprint != found.meta.fingerprint
    refused(path, "test_fraction: None is not allowed; allowed: a number between 0 and 1")
    refused(path, "test_fraction: 0.01 leaves class 0 (10 images) no test image", test_fraction=0.01)
    whole = saved(tmp_path / "whole.npz", arrays())
    refused(whole, "test_fraction: 0.5 is not allowed; allowed: none, since there are test_images", test_fraction=0.5)


def wrong(
    name: str, change: Callable[[np.ndarray], Any], kind: str = "uint8", shape=(3, 4, 5)
) -> dict[str, np.ndarray]:
    given = arrays(kind, shape)
    return given | {name: change(given[name])}


def put(at: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[at] = value
        return array

    return change


BAD = [
    (wrong("train_images", lambda a: a.astype(np.int64)), "train_images: int64 [6, 3, 4, 5]; allowed: uint8, or"),
    (wrong("train_images", lambda a: a > 2), "train_images: bool [6, 3, 4, 5]; allowed: uint8, or floats"),
    (wrong("train_images", lambda a: a.astype(np.complex64)), "complex64"),
    (wrong("train_images", lambda a: a.astype(str)), "train_images: <U3 [6, 3, 4, 5]; allowed: uint8"),
    (wrong("train_images", lambda a: a.ravel()), "train_images: uint8 [360]; allowed: [n, c, h, w], [n, h, w, c]"),
    (wrong("test_images", lambda a: a[None]), "test_images: uint8 [1, 4, 3, 4, 5]; allowed: [n, c, h, w]"),
    (wrong("train_images", lambda a: a[:0]), "train_images: uint8 [0, 3, 4, 5]; allowed: an array with numbers"),
    (wrong("test_images", lambda a: a[:0]), "test_images: uint8 [0, 3, 4, 5]; allowed: an array with numbers"),
    (wrong("train_images", lambda a: a[:, :, :0]), "train_images: uint8 [6, 3, 0, 5]; allowed: an array"),
    (wrong("test_images", lambda a: a[:, :, :3]), "test_images: uint8 [4, 3, 3, 5], and train_images: uint8 [6, 3"),
    (wrong("test_images", lambda a: a.astype("f4")), "test_images: float32 [4, 3, 4, 5], and train_images: uint8 [6, "),
    (wrong("train_labels", lambda a: a[:5]), "train_labels: 5 labels of 6 train_images; allowed: one for each"),
    (wrong("test_labels", lambda a: np.arange(5)), "test_labels: 5 labels of 4 test_images; allowed: one for each"),
    (wrong("train_labels", lambda a: a.astype(float)), "train_labels: float64 [6], and test_labels: int64 [4]; all"),
    (wrong("train_labels", lambda a: a.astype(bool)), "train_labels: bool [6], and test_labels: int64 [4]; allowed"),
    (wrong("test_labels", lambda a: np.eye(2, dtype=int)[a]), "train_labels: int64 [6], and test_labels: int64 [4, 2]"),
    (wrong("test_labels", lambda a: a.astype(complex)), "test_labels: complex128 [4]; allowed: [n] integers"),
    (wrong("test_labels", lambda a: a[:, None, None] / 2), "test_labels: float64 [4, 1, 1]; allowed: [n] or [n, outpu"),
    (wrong("test_labels", lambda a: a[:3] / 2), "test_labels: 3 labels of 4 test_images; allowed: one for each"),
    (wrong("train_labels", put(1, -1)), "train_labels: has -1; allowed: whole numbers from 0"),
    (wrong("train_labels", lambda a: a + 1), "train_labels: 2 classes up to 2, and no 0; allowed: each of 0 to 1"),
    (wrong("train_labels", put(1, 10**12)), "train_labels: 3 classes up to 1000000000000, and no 2; allowed"),
    (wrong("train_labels", lambda a: np.full(6, 2**64 - 1, np.uint64)), "18446744073709551615"),
    (wrong("train_labels", lambda a: a * 0), "train_labels: 0 alone; allowed: two classes or more"),
    (wrong("test_labels", put(3, 2)), "test_labels: has 2; allowed: labels from 0 to 1, the classes of the training"),
    (wrong("train_images", put((4, 1, 2, 3), np.nan), "f4"), "train_images: has nan in its row 4; allowed: finite"),
    (wrong("test_images", put((2, 1), -np.inf), "f8"), "test_images: has -inf in its row 2; allowed: finite floats"),
    (wrong("test_images", put((2, 1), 1e39), "f8"), "test_images: has 1e+39 in its row 2; allowed: finite floats"),
    (wrong("train_images", put((5, 6), np.nan), "f2", (7,)), "train_images: has nan in its row 5; allowed: finite"),
    ({name: array for name, array in arrays().items() if name != "test_labels"}, "has no test_labels; it has test"),
    ({name: array for name, array in arrays().items() if "test" not in name}, "has no test_images; it has train"),
    ({}, "has no train_images; it has no arrays"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_arrays_that_are_not_as_they_have_to_be(given: Arrays, message: str, tmp_path: Path) -> None:
    refused(saved(tmp_path / "mine.npz", given), message)


def test_values_that_are_not_finite_are_found_beyond_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallbatch.data.array_checks.CHUNK_VALUES", 120)
    refused(saved(tmp_path / "mine", wrong("train_images", put((5, 0, 0, 1), np.inf), "f4")), "has inf in its row 5")


def test_labels_may_be_a_column(tmp_path: Path) -> None:
    given = arrays()
    columns = {name: array[:, None] if "labels" in name else array for name, array in given.items()}
    found = prepare(saved(tmp_path / "mine.npz", columns))
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_channels_are_for_images_that_have_some(tmp_path: Path) -> None:
    refused(
        saved(tmp_path / "mine", arrays(shape=(4, 5))), "channels: 'last' with train_images [6, 4, 5]", channels="last"
    )


class Opened:
    """Pickled, it would write a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, ("opened", "w")


@pytest.mark.parametrize("name", ["mine.npz", "mine"])
def test_pickled_objects_are_never_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / name, arrays() | {"train_labels": np.array([Opened()] * 6, dtype=object)})
    refused(path, "train_labels: Python objects, which are not loaded; allowed: an array of numbers")
    assert not Path("opened").exists()


def test_files_that_are_damaged_or_something_else(tmp_path: Path) -> None:
    for name in FILES[:1] + FILES[2:4]:
        path = saved(tmp_path / name, arrays())
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], whole[:10], b"", b"no such file at all, but text"):
            path.write_bytes(content)
            refused(path, "damaged or not such a file (")
    flipped = bytearray(saved(tmp_path / "flipped.npz", arrays("f4")).read_bytes())
    flipped[400] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    refused(tmp_path / "flipped.npz", "damaged or not such a file (Bad CRC-32 for file 'train_images.npy')")
    folder = saved(tmp_path / "mine", arrays())
    for change in (lambda content: content[:-1], lambda content: content + b"1", lambda content: content[:20]):
        file = folder / "test_images.npy"
        whole = file.read_bytes()
        file.write_bytes(change(whole))
        refused(folder, "damaged or not such a file (")
        file.write_bytes(whole)
    (tmp_path / "mine.csv").write_text("1,2")
    refused(tmp_path / "mine.csv", "not a file of arrays by its name; allowed: a file .npz, .h5, .hdf5, .safetensors")


def test_a_head_that_says_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 3, 4, 5)})
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", head.getvalue())
    refused(tmp_path / "mine.npz", "damaged or not such a file (train_images has ")


def test_a_package_that_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "mine.h5").write_bytes(b"")
    refused(tmp_path / "mine.h5", "package h5py is not installed; `pip install h5py`")


def test_kinds_of_safetensors_that_numpy_has_not(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    given = {name: torch.tensor(array) for name, array in arrays("float32").items()}
    save_file(given | {"train_images": given["train_images"].bfloat16()}, tmp_path / "mine.safetensors")
    refused(tmp_path / "mine.safetensors", "train_images: BF16; allowed: integers, or floats of 16, 32 or 64 bits")


def test_hdf5_text_and_groups(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    given = arrays()
    path = saved(tmp_path / "mine.h5", {f"data/{name}": array for name, array in given.items()})
    keys = {name: f"data/{name}" for name in given}
    assert prepare(path, keys=keys).meta.train == 6
    refused(path, "has no data; it has data/test_images", keys=keys | {"train_labels": "data"})
    with h5py.File(path, "a") as file:
        file["text"] = ["a"] * 6
    refused(path, "text: objects or text; allowed: an array of numbers", keys=keys | {"train_labels": "text"})


def test_changed_arrays_are_prepared_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.npz", arrays())
    prepare(path)
    settings, folder = {"source": "arrays", "path": str(path)}, tmp_path / "made" / "mine"
    assert "prepared with keys: None, which is now" in data.reason_to_prepare("mine", settings | {"keys": {}}, folder)
    saved(path, arrays("float32"))
    assert "files were added, changed or removed" in data.reason_to_prepare("mine", settings, folder)
    path.unlink()
    assert data.reason_to_prepare("mine", settings, folder) is None, "what is prepared stays valid without its source"


def test_the_shape_is_known_before_they_are_prepared(tmp_path: Path) -> None:
    settings = {"source": "arrays", "path": str(saved(tmp_path / "mine.npz", arrays("float32", (5, 7))))}
    assert image_shape_and_classes("mine", settings, tmp_path) == ((1, 5, 7), 2)
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(UserError, match=r"mine\.npz: cannot be read \(No such file"):
        image_shape_and_classes("mine", settings, tmp_path)


def test_a_source_is_read_once_as_long_as_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = array_files.read
    monkeypatch.setattr(array_files, "read", lambda settings: reads.append(settings) or read(settings))
    settings = {"source": "arrays", "path": str(saved(tmp_path / "mine.npz", arrays()))}
    for _ in range(2):
        assert data.size_of_source(settings).train == 6
    assert len(reads) == 1
    saved(tmp_path / "mine.npz", arrays("float32"))
    assert data.size_of_source(settings).value_bytes == 4 and len(reads) == 2
