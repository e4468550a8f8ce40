"""Pictures with a table of labels beside them, as Hugging Face's `imagefolder` has it."""

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from helpers import refusal
from helpers.pictures import SIZE, flat, prepare, refused, save

from smallbatch import data
from smallbatch.data.dataset_info import size_of

AGE = {"labels": "age"}
ROWS = "file_name,age,tall\nb.png,3.5,1\nin/a.png,2,0\nc.png,7,1\n"
NAMES = ("in/a.png", "b.png", "c.png")


def pictures(folder: Path, table: str, *names: str) -> Path:
    """Picture i is grey of value i."""
    for number, name in enumerate(names):
        save(flat(number, "L"), folder / name)
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    return folder


def halves(root: Path) -> Path:
    """The same pictures in train/ and test/."""
    for split in ("train", "test"):
        pictures(root / split, ROWS, *NAMES)
    return root


def settings_of(path: Path, **more: Any) -> dict[str, Any]:
    return {"source": "image-folder", "path": str(path), "size": SIZE} | more


def refused_at_once(path: Path, *parts: str, **more: Any) -> None:
    """Before the first job."""
    with refusal(path, *parts):
        data.check_source("config.yaml", "mine", settings_of(path, **more))


def test_a_table_in_each_split_gives_the_targets_of_its_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos" / "train", ROWS, *NAMES).parent
    pictures(root / "val", "age,file_name,tall\n1.5,0001.png,0\n2.5,0002.png,1\n", "0001.png", "0002.png")
    found = prepare(root, mode="L", keys=AGE)
    assert (found.meta.classes, found.meta.targets) == (("age",), "numbers")
    assert found.train.images[:, 0, 3, 3].tolist() == [1, 0, 2]
    assert found.train.labels.tolist() == [[3.5], [2.0], [7.0]]
    assert found.test.images[:, 0, 3, 3].tolist() == [0, 1] and found.test.labels.tolist() == [[1.5], [2.5]]
    size = data.check_source("config.yaml", "mine", settings_of(root, mode="L", keys=AGE))
    assert size == size_of(found.meta)._replace(a_number="3.5 of output age")
    several = prepare(root, mode="L", keys={"labels": ["tall", "age"]})
    assert several.meta.classes == ("tall", "age") and several.meta.fingerprint != found.meta.fingerprint
    assert several.train.labels.tolist() == [[1, 3.5], [0, 2.0], [1, 7.0]]
    classes = prepare(root, mode="L", keys={"labels": "tall"})
    assert (classes.meta.classes, classes.meta.targets) == (("0", "1"), None)
    assert classes.train.labels.tolist() == [1, 0, 1] and classes.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_one_table_is_divided(kind: str, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(8)]
    rows = "".join(f"{name},{name[0]}.5,true\n" for name in names)
    root = pictures(tmp_path / "made" / "photos", f"\ufefffile,age,tall\n{rows}", *names)
    if kind == "archive":
        root = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "made", "photos"))
    found = prepare(root, tmp_path / "out" / "mine", mode="L", test_fraction=0.25, keys={"images": "file", **AGE})
    assert (found.meta.train, found.meta.test) == (6, 2)
    for split in (found.train, found.test):
        assert split.labels.tolist() == [[number + 0.5] for number in split.images[:, 0, 0, 0]]


def test_a_changed_target_is_other_data(tmp_path: Path) -> None:
    root, settings = halves(tmp_path / "photos"), {"keys": AGE}
    before = prepare(root, **settings).meta
    folder = tmp_path / "prepared" / "pets"
    assert data.reason_to_prepare("pets", settings_of(root, **settings), folder) is None
    (root / "test" / "metadata.csv").write_text(ROWS.replace("3.5", "3.75"))
    assert "changed" in str(data.reason_to_prepare("pets", settings_of(root, **settings), folder))
    assert prepare(root, **settings).meta.fingerprint != before.fingerprint
    other = settings_of(root, keys={"labels": "tall"})
    assert "prepared with keys" in str(data.reason_to_prepare("pets", other, folder))


def test_broken_pictures_take_their_targets_with_them(tmp_path: Path) -> None:
    root = halves(tmp_path / "photos")
    for name in NAMES:
        (root / "test" / name).write_bytes(b"no picture")
    refused(root, "all images in the test split are broken", keys=AGE, broken_images="skip")
    shutil.copytree(root / "train", root / "test", dirs_exist_ok=True)
    (root / "train" / "in" / "a.png").write_bytes(b"no picture")
    found = prepare(root, mode="L", keys=AGE, broken_images="skip")
    assert found.train.labels.tolist() == [[3.5], [7.0]] and found.train.images[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_pictures_however_accents_are_encoded(forms: tuple[Any, Any], tmp_path: Path) -> None:
    listed, file = (unicodedata.normalize(form, "caf\u00e9.png") for form in forms)
    table = f"file_name,age\n{listed},1.5\nb.png,2.5\nc.png,3.5\nd.png,4.5\n"
    root = pictures(tmp_path / "photos", table, file, "b.png", "c.png", "d.png")
    assert prepare(root, keys=AGE, test_fraction=0.5).meta.train == 2


def test_two_pictures_whose_names_differ_in_the_encoding_of_accents_alone(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    root = pictures(tmp_path / "photos", "file_name,age\né.png,1.5\nb.png,2.5\n", *names, "b.png")
    if len(list(root.iterdir())) == 4:  # not so where the file system takes them for one
        refused_at_once(root, "two pictures are called 'é.png'", keys=AGE, test_fraction=0.5)


def test_names_that_are_numbers_stay_text(tmp_path: Path) -> None:
    names = ["001", "002", "003", "1e3"]
    root = pictures(tmp_path / "photos", "file_name,age\n", *(f"{name}.png" for name in names))
    for name in names:
        (root / f"{name}.png").rename(root / name)
    (root / "metadata.csv").write_text("file_name,age\n" + "".join(f"{name},{len(name)}.5\n" for name in names[:3]))
    refused_at_once(root, "has no row of 1e3; allowed: a row for each picture", keys=AGE, test_fraction=0.5)


def test_without_keys_a_table_is_left_out(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        pictures(tmp_path / "photos" / name, "file_name,age\n", "a.png", "b.png", "c.png")
    assert prepare(tmp_path / "photos", test_fraction=0.34).meta.classes == ("cat", "dog")


BAD = [
    ("file_name,age\na.png,1.5\n", "metadata.csv: has no row of b.png; allowed: a row for each picture"),
    ("file_name,age\na.png,1\nb.png,2\nx.png,3\n", "row 2: there is no picture 'x.png'; allowed: paths below"),
    ("file_name,age\na.png,1\nb.png,2\n../b.png,3\n", "row 2: there is no picture '../b.png'"),
    ("file_name,age\na.png,1\nb.png,2\n,3\n", "row 2: there is no picture ''"),
    ("file_name,age\na.png,1.5\nb.png,2\na.png,3\n", "rows 0 and 2 are of a.png; allowed: a row for each"),
    ("file_name,age\na.png,1.5\nb.png,old\n", "metadata.csv: age: has 'old' in its row 1; allowed: integers, the"),
    ("file_name,age\na.png,1.5\nb.png,\n", "age: 1 of 2 are missing, the first in row 1; allowed: one for each image"),
    ("file_name,age\na.png,1.5\nb.png,inf\n", "age: has inf in its row 1; allowed: finite floats"),
    ("file_name,age\na.png,1.5\nb.png,NaN\n", "age: 1 of 2 are missing, the first in row 1; allowed: one for each"),
    ("file_name,age\na.png,\nb.png,\n", "age: 2 of 2 are missing, the first in row 0; allowed: one for each image"),
    ("file_name,weight\na.png,1.5\nb.png,2\n", "metadata.csv: has no column age; it has file_name, weight; `keys`"),
    ("name,age\na.png,1.5\nb.png,2\n", "metadata.csv: has no column file_name; it has name, age; `keys`"),
    ("file_name;age\na.png;1.5\nb.png;2\n", "has no column file_name; it has file_name;age"),
    ("file_name,age,age\na.png,1.5,2\nb.png,2,2\n", "column age: is there 2 times; allowed: one"),
    ("file_name,age\na.png,1.5\nb.png\n", "metadata.csv: damaged, or not values with commas in UTF-8 ("),
    ("", "metadata.csv: damaged, or not values with commas in UTF-8 ("),
    ("file_name,age\n", "metadata.csv: has no row of a.png, b.png; allowed: a row for each picture"),
]


@pytest.mark.parametrize(("table", "message"), BAD, ids=range(len(BAD)))
def test_tables_that_do_not_fit_their_pictures(table: str, message: str, tmp_path: Path) -> None:
    refused_at_once(pictures(tmp_path / "photos", table, "a.png", "b.png"), message, keys=AGE, test_fraction=0.5)


def test_where_the_table_must_be(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos" / "train", ROWS, *NAMES).parent
    refused_at_once(root, "doubtful: train/ alone", keys=AGE)
    save(flat(0), root / "test" / "a.png")
    refused_at_once(root, "test/: has no metadata.csv, which `keys` needs; allowed: one beside the pictures", keys=AGE)
    pictures(root / "test", ROWS, *NAMES[1:])
    os.link(root / "train" / "in" / "a.png", root / "test" / "in.png")
    (root / "test" / "metadata.csv").write_text(ROWS.replace("in/a.png", "in.png"))
    (root / "test" / "a.png").unlink()
    refused_at_once(root, "are one file, by a link", keys=AGE)
    (root / "metadata.csv").write_text("file_name,age\n")
    refused_at_once(root, "metadata.csv beside test/, train/; allowed: one in each of train/ and test/", keys=AGE)
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    (root / "metadata.csv").unlink()
    save(flat(0), root / "a.png")
    refused_at_once(root, "has no metadata.csv, which `keys` needs; allowed: one beside the pictures", keys=AGE)


def test_fractions_and_keys_that_do_not_apply(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos", ROWS, *NAMES)
    refused_at_once(root, "test_fraction: None is not allowed; allowed: a number between 0 and 1", keys=AGE)
    allowed = "keys.train_images: 'a' is not allowed; allowed: images and labels, the columns of them"
    refused_at_once(root, allowed, keys={"train_images": "a"}, test_fraction=0.5)
    both = halves(tmp_path / "split")
    refused_at_once(both, "test_fraction: 0.5 is not allowed; allowed: none", keys=AGE, test_fraction=0.5)
