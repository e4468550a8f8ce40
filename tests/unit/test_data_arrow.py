"""Images in parquet and arrow files, and in folders as Hugging Face writes them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import prepared_beside, refusal
from helpers.pictures import SIZE, flat

from smallbatch import data
from smallbatch.data import prepared
from smallbatch.data.dataset_info import size_of

NAMES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    flat(value, "L").save(file, kind)
    return file.getvalue()


def table(values: list[int], labels: list[int | None] | None = None, image: str = "image", **more: Any) -> pa.Table:
    """Image i is grey of value i."""
    images = [{"bytes": content(value), "path": f"{value}.png"} for value in values]
    labels = [value % 2 for value in values] if labels is None else labels
    made = pa.table({image: pa.array(images, IMAGE), "label": pa.array(labels, pa.int64()), **more})
    return made.replace_schema_metadata({"huggingface": json.dumps(NAMES)})


TRAIN, TEST = [0, 1, 2, 3, 4, 5], [100, 101]


def streamed(file: Path, given: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(file), given.schema) as writer:
        writer.write_table(given, max_chunksize=2)


def saved(folder: Path, given: pa.Table) -> Path:
    """As `save_to_disk` does it, in two files, with a cache beside them."""
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (given.slice(0, 1), given.slice(1)), strict=True):
        streamed(folder / name, part)
    streamed(folder / "cache-1234.arrow", table([7]))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def settings_of(path: Path, **more: Any) -> dict[str, Any]:
    return {"source": "arrow", "path": str(path), "size": SIZE, "mode": "L"} | more


def prepare(path: Path, **more: Any) -> prepared.Prepared:
    return prepared_beside(path, settings_of(path, **more))


def refused(path: Path, *parts: str, **more: Any) -> None:
    with refusal(path, *parts):
        data.check_source("config.yaml", "mine", settings_of(path, **more))


def is_as_it_should_be(found: prepared.Prepared) -> bool:
    assert found.meta.classes == ("cat", "dog") and found.meta.shape == (1, SIZE, SIZE)
    assert found.train.images[:, 0, 3, 4].tolist() == TRAIN and found.test.images[:, 0, 3, 4].tolist() == TEST
    return [split.labels.tolist() for split in (found.train, found.test)] == [[0, 1] * 3, [0, 1]]


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_a_folder_of_parquet_files_as_the_hub_has_it(held_out: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "data"
    folder.mkdir(parents=True)
    for number in range(2):
        part = table(TRAIN).slice(4 * number, 4)
        pq.write_table(part, folder / f"train-0000{number}-of-00002.parquet", row_group_size=1)
    pq.write_table(table(TEST), folder / f"{held_out}-00000-of-00001.parquet")
    assert is_as_it_should_be(prepare(tmp_path / "mine"))
    refused(tmp_path / "mine", "test_fraction: 0.5 is not allowed; allowed: none, since there are", test_fraction=0.5)
    if held_out == "test":
        pq.write_table(table([9]), folder / "validation-00000-of-00001.parquet")
        assert is_as_it_should_be(prepare(tmp_path / "mine"))


def test_splits_in_folders_are_not_mixed(tmp_path: Path) -> None:
    for split, values in (("train", TRAIN), ("test", TEST)):
        (tmp_path / "default" / split).mkdir(parents=True)
        pq.write_table(table(values), tmp_path / "default" / split / "0000.parquet")
    refused(tmp_path, "test_fraction: 0.5 is not allowed; allowed: none, since there are", test_fraction=0.5)
    assert is_as_it_should_be(prepare(tmp_path))


def test_a_data_set_on_disk_with_its_splits(tmp_path: Path) -> None:
    for split, values in (("train", TRAIN), ("test", TEST)):
        saved(tmp_path / "mine" / split, table(values))
    (tmp_path / "mine" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert is_as_it_should_be(prepare(tmp_path / "mine"))
    (tmp_path / "mine" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    refused(tmp_path / "mine", "splits test; allowed: train, and test or validation")


def test_rows_that_a_list_beside_them_chooses_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine", table(TRAIN))
    state = json.loads((folder / "state.json").read_text()) | {"_indices_data_files": []}
    (folder / "state.json").write_text(json.dumps(state))
    prepare(folder, test_fraction=0.5)
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with refusal(folder / "state.json", "_indices_data_files: rows are chosen by a list of them; allowed: none, as"):
        data.check_source("config.yaml", "mine", settings_of(folder, test_fraction=0.5))


@pytest.mark.parametrize("kind", ["disk", "stream", "file", "parquet", "bytes"])
def test_what_has_no_splits_is_divided(kind: str, tmp_path: Path) -> None:
    whole, path = table(list(range(12))), tmp_path / f"mine.{'parquet' if kind in ('parquet', 'bytes') else 'arrow'}"
    if kind == "disk":
        path = saved(tmp_path / "mine", whole)
    elif kind == "stream":
        streamed(path, whole)
    elif kind == "file":
        with pa.ipc.new_file(str(path), whole.schema) as writer:
            writer.write_table(whole)
    else:
        plain = whole["image"].combine_chunks().field("bytes")
        pq.write_table(whole if kind == "parquet" else whole.set_column(0, "image", plain), path)
    found = prepare(path, test_fraction=0.25)
    numbers = [split.images[:, 0, 0, 0].tolist() for split in (found.train, found.test)]
    assert sorted(numbers[0] + numbers[1]) == list(range(12)) and len(numbers[1]) == 4
    for of, split in zip(numbers, (found.train, found.test), strict=True):
        assert [number % 2 for number in of] == split.labels.tolist()
    refused(
        path,
        "test_fraction: None is not allowed; allowed: a number between 0 and 1",
    )


def test_columns_by_other_names_and_classes_without(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pq.write_table(table(list(range(8)), image="img").rename_columns(["img", "fine"]), path)
    keys = {"images": "img", "labels": "fine"}
    assert prepare(path, keys=keys, test_fraction=0.25).meta.classes == ("0", "1")
    refused(path, "has no column image; it has img, fine; `keys` says which", test_fraction=0.25)
    refused(path, "keys.train_images: 'a' is not allowed; allowed: images and labels", keys={"train_images": "a"})


BAD = [
    (table([0, 1], [0, -1]), "label: has -1; allowed: whole numbers from 0"),
    (table([0, 1], [0, None]), "label: 1 of 2 are missing, the first in row 1; allowed: one for each image"),
    (table([0, 1], [0, 2]), "label: 2 classes up to 2, and no 1; allowed: each of 0 to 1"),
    (table([0, 1], [0, 0]), "label: 0 alone; allowed: two classes or more"),
    (table([]), "label: has no rows; allowed: some images"),
    (
        table([0, 1]).set_column(1, "label", pa.array(["a", "b"])),
        "column label: string; allowed: integers, the classes",
    ),
    (table([0, 1]).set_column(0, "image", pa.array([[1], [2]])), "column image: list<"),
    (table([0, 1]).select(["image"]), "has no column label; it has image"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_tables_that_are_not_as_they_have_to_be(given: pa.Table, message: str, tmp_path: Path) -> None:
    pq.write_table(given, tmp_path / "mine.parquet")
    refused(tmp_path / "mine.parquet", message, test_fraction=0.5)


def test_files_that_are_damaged_or_not_there(tmp_path: Path) -> None:
    pq.write_table(table(TRAIN), tmp_path / "mine.parquet")
    streamed(tmp_path / "mine.arrow", table(TRAIN))
    for path in (tmp_path / "mine.parquet", tmp_path / "mine.arrow"):
        whole = path.read_bytes()
        for part in (whole[: len(whole) // 2], whole[:5], b"", b"something else, and of some length"):
            path.write_bytes(part)
            refused(path, "damaged or no such file (", test_fraction=0.5)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no file .parquet or .arrow; allowed: one, or a folder with some")
    folder = saved(tmp_path / "saved", table(TRAIN))
    (folder / "data-00001-of-00002.arrow").unlink()
    refused(folder, "data-00001-of-00002.arrow: damaged or no such file (", test_fraction=0.5)
    (folder / "state.json").write_text("[]")
    refused(folder, "state.json: lists no _data_files")


@pytest.mark.parametrize(("value", "said"), [(b"no image", "none of the formats"), (None, "it is not in the file")])
def test_a_broken_image_is_named_or_left_out(value: bytes | None, said: str, tmp_path: Path) -> None:
    given = table(list(range(8)))
    images = given["image"].to_pylist()
    images[3]["bytes"] = value
    path = tmp_path / "mine.parquet"
    pq.write_table(given.set_column(0, "image", pa.array(images, IMAGE)), path)
    with refusal(path, "image 3 (t", ") is a broken image (", said):
        data.prepare("mine", settings_of(path, test_fraction=0.25), tmp_path / "made" / "mine", tmp_path)
    found = prepare(path, test_fraction=0.25, broken_images="skip")
    assert found.meta.train + found.meta.test == 7


def test_test_labels_are_classes_of_the_training_images(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    pq.write_table(table(TRAIN), tmp_path / "mine" / "train.parquet")
    pq.write_table(table(TEST, [0, 2]), tmp_path / "mine" / "test.parquet")
    refused(tmp_path / "mine", "label (test): has 2; allowed: labels from 0 to 1")
    pq.write_table(table(TEST), tmp_path / "mine" / "extra.parquet")
    refused(tmp_path / "mine", "splits extra, test, train; allowed: one each of train, and test or validation")


Y = [0.5, 1.5, 2.5, 4.0]
PAIRS = [[0.5, 1], [1.5, 0], [2.5, 1], [4.0, 1]]
BITS = [[0, 1], [1, 0], [1, 1], [0, 0]]
TARGETS = {
    "floats": ({"y": pa.array(Y)}, "y", [[y] for y in Y], ("y",), "numbers", "0.5 of output y"),
    "halves": ({"y": pa.array(Y, pa.float16())}, "y", [[y] for y in Y], ("y",), "numbers", "0.5 of output y"),
    "booleans": ({"y": pa.array([True, False, True, False])}, "y", [[1], [0], [1], [0]], ("y",), "binary", None),
    "lists": ({"y": pa.array(PAIRS)}, "y", PAIRS, ("0", "1"), "numbers", "0.5 of output 0"),
    "lists of a size": (
        {"y": pa.array(PAIRS, pa.list_(pa.float32(), 2))},
        "y",
        PAIRS,
        ("0", "1"),
        "numbers",
        "0.5 of output 0",
    ),
    "labels": ({"y": pa.array(BITS, pa.list_(pa.int8()))}, "y", BITS, ("0", "1"), "binary", None),
    "columns": ({"y": Y, "z": [1, 0, 1, 1]}, ["y", "z"], PAIRS, ("y", "z"), "numbers", "0.5 of output y"),
    "columns of labels": ({"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}, ["a", "b"], BITS, ("a", "b"), "binary", None),
    "a 2 among labels": (
        {"a": [0, 1, 1, 0], "b": [1, 2, 1, 0]},
        ["a", "b"],
        [[0, 1], [1, 2], [1, 1], [0, 0]],
        ("a", "b"),
        "numbers",
        "2 of output b",
    ),
    "one column of integers": ({"a": [1, 0, 1, 0]}, ["a"], [[1], [0], [1], [0]], ("a",), "binary", None),
    "a list of one column": ({"y": Y}, ["y"], [[y] for y in Y], ("y",), "numbers", "0.5 of output y"),
}


@pytest.mark.parametrize(("more", "labels", "targets", "names", "kind", "number"), TARGETS.values(), ids=TARGETS)
def test_columns_of_targets(
    more: dict[str, Any],
    labels: Any,
    targets: list[list[float]],
    names: tuple[str, ...],
    kind: str,
    number: str | None,
    tmp_path: Path,
) -> None:
    folder, values = tmp_path / "mine", [10, 11, 12, 13]
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(table(values, [0, 1, 0, 1], **more), folder / f"{split}.parquet", row_group_size=3)
    keys = {"labels": labels}
    found = prepare(folder, keys=keys)
    assert (found.meta.classes, found.meta.targets) == (names, kind)
    assert found.train.labels.tolist() == found.test.labels.tolist() == targets
    assert found.train.labels.dtype == np.float32
    size = data.check_source("config.yaml", "mine", settings_of(folder, keys=keys))
    assert size == size_of(found.meta)._replace(a_number=number)


def test_targets_are_divided_as_those_of_arrays_and_the_same_numbers_are_the_same_data(tmp_path: Path) -> None:
    values, rows = list(range(8)), [[number / 2, number % 3] for number in range(8)]
    pq.write_table(table(values, y=pa.array(rows, pa.list_(pa.float64()))), tmp_path / "mine.parquet")
    found = prepare(tmp_path / "mine.parquet", keys={"labels": "y"}, test_fraction=0.25, split_seed=3)
    assert (found.meta.train, found.meta.test) == (6, 2)
    for split in (found.train, found.test):
        assert split.labels.tolist() == [rows[number] for number in split.images[:, 0, 0, 0]]
    images = np.repeat(np.uint8(values), SIZE * SIZE).reshape(8, SIZE, SIZE)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.array(rows))
    settings = {"source": "arrays", "path": str(tmp_path / "mine.npz"), "test_fraction": 0.25, "split_seed": 3}
    assert prepared_beside(tmp_path / "mine.npz", settings).meta.fingerprint == found.meta.fingerprint


BAD_TARGETS = [
    ({"y": [0.5, float("nan")]}, "y", "y: has nan in its row 1; allowed: finite floats of 32 bits"),
    ({"y": [0.5, 1e39]}, "y", "y: has 1e+39 in its row 1; allowed: finite floats"),
    ({"y": [0.5, None]}, "y", "y: 1 of 2 are missing, the first in row 1; allowed: one for each image"),
    ({"y": [[0.5, 1], [2, None]]}, "y", "y: 1 of 4 are missing, the first in row 1; allowed: one for each image"),
    ({"y": [[0.5, 1.5], [2.0]]}, "y", "y: 1 numbers in its row 1, and 2 in row 0; allowed: as many in each"),
    ({"y": pa.array([[], []], pa.list_(pa.float32()))}, "y", "y: empty lists; allowed: a number or more in each"),
    ({"y": ["0.5", "1"]}, "y", "column y: string; allowed: integers, the classes; or, as targets, floats"),
    ({"y": [["a"], ["b"]]}, "y", "column y: list<"),
    ({"y": [[0.5], [1.5]], "z": [1, 2]}, ["z", "y"], "allowed: numbers, in a list of columns"),
    ({"y": [1.5, float("inf")], "z": [1, 2]}, ["z", "y"], "mine.parquet: y: has inf in its row 1; allowed"),
    ({"y": [1.5, 2.5]}, ["y", "x"], "has no column x; it has image, label, y; `keys` says which"),
]


@pytest.mark.parametrize(("more", "labels", "message"), BAD_TARGETS, ids=[message[:30] for *_, message in BAD_TARGETS])
def test_targets_that_are_not_as_they_have_to_be(more: Any, labels: Any, message: str, tmp_path: Path) -> None:
    pq.write_table(table([0, 1], **more), tmp_path / "mine.parquet")
    refused(tmp_path / "mine.parquet", message, test_fraction=0.5, keys={"labels": labels})


def test_splits_whose_targets_do_not_fit(tmp_path: Path) -> None:
    given = {"train": {"y": Y, "z": Y}, "test": {"y": [0, 1, 0, 1], "z": [0.5] * 4}}
    for split, more in given.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        pq.write_table(table([0, 1, 2, 3], **more), tmp_path / "mine" / f"{split}.parquet")
    both = "y (train): float64 [4], and y (test): int64 [4]; allowed: both classes, or as many targets of each image"
    refused(tmp_path / "mine", both, keys={"labels": "y"})
    constant = "z (test): output z is always 0.5; allowed: one that varies"
    refused(tmp_path / "mine", constant, keys={"labels": "z"})


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    given = table([0, 1]).append_column("label", pa.array([0, 1]))
    with pa.ipc.new_file(str(tmp_path / "mine.arrow"), given.schema) as writer:
        writer.write_table(given)
    refused(tmp_path / "mine.arrow", "column label: is there 2 times; allowed: one", test_fraction=0.5)


def named(names: list[str]) -> pa.Table:
    kept = {"info": {"features": {"label": {"names": names}}}}
    return table(TRAIN).replace_schema_metadata({"huggingface": json.dumps(kept)})


@pytest.mark.parametrize("other", ["train-00001.parquet", "test-00000.parquet"])
def test_classes_have_one_order_in_all_files(other: str, tmp_path: Path) -> None:
    for name in ("train-00000.parquet", "train-00001.parquet", "test-00000.parquet"):
        pq.write_table(named(["dog", "cat"] if name == other else ["cat", "dog", "eel"]), tmp_path / name)
    refused(tmp_path, f"{other}: column label: class 0 is dog, and cat in", "allowed: classes of one order in all")
    pq.write_table(named(["cat", "dog"]), tmp_path / other)
    assert prepare(tmp_path).meta.classes == ("cat", "dog")
