"""Data sets of torchvision by name, from folders as torchvision lays them out."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from helpers import PROJECT, prepared_beside, refusal
from helpers.torchvision_layouts import LAYOUTS, NAMES, TEST, TRAIN, WHOLE, any_content, idx, labels, text

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.data.torchvision_datasets import DATASETS, NOT_DOWNLOADED, SOURCES_INSTEAD

SIZE = 8
ARGUMENTS = {"EMNIST": {"split": "balanced"}}


@pytest.fixture(autouse=True)
def _any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    any_content(monkeypatch)


def settings_of(path: Path, name: str, **more: Any) -> dict[str, Any]:
    given = {"arguments": ARGUMENTS[name]} if name in ARGUMENTS else {}
    divided = {} if DATASETS[name].test else {"test_fraction": 0.25}
    return (
        {"source": "torchvision", "name": name, "path": str(path), "size": SIZE, "mode": "L"} | given | divided | more
    )


def made(root: Path, name: str) -> Path:
    root.mkdir()
    LAYOUTS[name](root)
    return root


def prepare(path: Path, name: str, **more: Any) -> prepared.Prepared:
    return prepared_beside(path, settings_of(path, name, **more))


def refused(path: Path, name: str, *parts: str, **more: Any) -> None:
    with refusal(path, *parts):
        data.check_source("config.yaml", "mine", settings_of(path, name, **more))


def values(split: Any) -> list[tuple[int, int]]:
    """Each image's value, which all its pixels have, and its label."""
    assert (split.images == split.images[:, :, :1, :1]).all()
    return sorted(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))


def labelled(of: list[int]) -> list[tuple[int, int]]:
    return [(value, value % 2) for value in of]


CLASSES = {
    **dict.fromkeys(("Caltech101", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "Food101", "STL10"), NAMES),
    "StanfordCars": NAMES,
    "Caltech256": ("001.cat", "002.dog"),
    "FashionMNIST": ("T-shirt/top", "Trouser"),
    "Flowers102": ("pink primrose", "hard-leaved pocket orchid"),
    "Imagenette": ("tench", "English springer"),
    "KMNIST": ("o", "ki"),
    **dict.fromkeys(("MNIST", "QMNIST"), ("0 - zero", "1 - one")),
    "OxfordIIITPet": ("Cat", "Dog"),
    "RenderedSST2": ("negative", "positive"),
    "SUN397": ("cat", "dog/outdoor"),
}
"""Where torchvision names them; elsewhere they are numbered."""


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"SEMEION"}))
def test_each_is_prepared_with_its_own_splits_or_divided(name: str, tmp_path: Path) -> None:
    found = prepare(made(tmp_path / "root", name), name)
    assert found.meta.classes == CLASSES.get(name, ("0", "1")) and found.meta.shape == (1, SIZE, SIZE)
    if DATASETS[name].test:
        assert [values(found.train), values(found.test)] == [labelled(TRAIN), labelled(TEST)]
    else:
        assert found.meta.test == 4 and sorted(values(found.train) + values(found.test)) == labelled(WHOLE)


def test_pixels_that_are_black_or_white(tmp_path: Path) -> None:
    found = prepare(made(tmp_path / "root", "SEMEION"), "SEMEION")
    assert sorted(values(found.train) + values(found.test)) == [(0, 0)] * 6 + [(255, 1)] * 6


def test_each_name_of_torchvision_is_known_or_refused_in_one_line() -> None:
    assert DATASETS.keys() == LAYOUTS.keys() and DATASETS.keys() | SOURCES_INSTEAD.keys() <= set(
        dir(torchvision.datasets)
    )
    for name in set(torchvision.datasets.__all__) - DATASETS.keys():
        settings = {"source": "torchvision", "name": name, "path": "x", "size": 8}
        with pytest.raises(UserError) as caught:
            data.check_settings("config.yaml", "mine", settings)
        assert str(caught.value).startswith(f"config.yaml: datasets.mine.name: '{name}' is not allowed; allowed: ")
        assert "\n" not in str(caught.value)


def test_the_configuration_s_page_names_each_with_its_arguments() -> None:
    page = (PROJECT / "config" / "README.md").read_text(encoding="utf-8")
    table = page.partition("Of torchvision there are")[2].partition("Further splits")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")][1:]
    said = {name: row for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert said.keys() == DATASETS.keys()
    for name, known in DATASETS.items():
        for argument, choices in known.choices.items():
            assert argument in said[name] and all(str(choice) in said[name] for choice in (choices[0], choices[-1]))


BAD = [
    ({"name": "CocoDetection"}, "name: 'CocoDetection' is not allowed; allowed: one of Caltech101, "),
    ({"name": "FashionMnist"}, "of torchvision's data sets (did you mean 'FashionMNIST'?)"),
    (
        {"name": "CIFAR10"},
        "name: 'CIFAR10' is not allowed; allowed: `source: cifar10`, which reads its archive without",
    ),
    ({"name": "ImageNet"}, "allowed: `source: imagenet`"),
    ({"name": "ImageFolder"}, "allowed: `source: image-folder`"),
    ({"name": "EMNIST"}, "arguments.split: None is not allowed; allowed: byclass, bymerge, balanced, letters, digits"),
    ({"name": "EMNIST", "arguments": {"split": "digit"}}, "arguments.split: 'digit' is not allowed; allowed: byclass"),
    (
        {"name": "STL10", "arguments": {"split": "unlabeled"}},
        "arguments.split: 'unlabeled' is not allowed; allowed: of",
    ),
    ({"name": "DTD", "arguments": {"partition": 11}}, "arguments.partition: 11 is not allowed; allowed: 1, 2, 3"),
    ({"name": "EuroSAT"}, "test_fraction: None is not allowed; allowed: a number between 0 and 1, since torchvision"),
    ({"name": "SVHN", "test_fraction": 0.5}, "test_fraction: 0.5 is not allowed; allowed: none, since torchvision"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        data.check_settings("config.yaml", "mine", {"source": "torchvision", "path": "x", "size": 8} | given)
    assert str(caught.value).startswith("config.yaml: datasets.mine.") and message in str(caught.value)


def test_letters_whose_labels_begin_with_1(tmp_path: Path) -> None:
    found = prepare(made(tmp_path / "root", "EMNIST"), "EMNIST", arguments={"split": "letters"})
    assert found.meta.classes == ("a", "b") and values(found.train) == labelled(TRAIN)


def test_arguments_are_handed_to_the_class(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "DTD")
    assert prepare(root, "DTD", arguments={"partition": 2}).meta.train == 2
    root = made(tmp_path / "others", "FGVCAircraft")
    assert prepare(root, "FGVCAircraft", arguments={"annotation_level": "manufacturer"}).meta.classes == ("dog", "cat")


@pytest.mark.parametrize("name", ["FashionMNIST", "SVHN", "GTSRB", "EuroSAT"])
def test_what_is_missing_is_named_with_the_line_that_downloads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    split = {"FashionMNIST": "train=True, ", "EuroSAT": ""}.get(name, "split='train', ")
    line = f"`python -c \"from torchvision.datasets import {name} as D; D('{tmp_path}/root', {split}download=True)"
    refused(tmp_path / "root", name, f"has no {DATASETS[name].files}, which {name} lies in; {line}", "` downloads it")
    assert not list((tmp_path / "root").iterdir())
    (tmp_path / "root").rmdir()
    with refusal(Path("config.yaml"), "datasets.mine.path: ", "; allowed: an existing file or folder", f"; {line}"):
        data.check_source("config.yaml", "mine", settings_of(tmp_path / "root", name))


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - set(NOT_DOWNLOADED)))
def test_the_line_that_downloads_calls_the_class_for_each_split(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text, for an empty folder; here with a class that only takes note of its arguments."""
    asked, called = inspect.signature(getattr(torchvision.datasets, name)), []
    monkeypatch.setattr(torchvision.datasets, name, lambda *given, **more: called.append(asked.bind(*given, **more)))
    with pytest.raises(UserError) as caught:
        data.check_source("config.yaml", "mine", settings_of(tmp_path, name))
    [code] = re.findall(r'`python -c "(.*)"` downloads it', str(caught.value))
    exec(code, {})
    assert len(called) == (2 if DATASETS[name].test else 1)
    for call in called:
        given = {**call.arguments, **call.arguments.get("kwargs", {})}
        assert (given["root"], given["download"]) == (str(tmp_path), True)


def test_a_path_of_an_unknown_user() -> None:
    with refusal(Path("config.yaml"), "datasets.mine.path: '~nobody-of-this-name/x' is not allowed"):
        data.check_source("config.yaml", "mine", settings_of(Path("~nobody-of-this-name/x"), "SVHN"))


def test_what_torchvision_does_not_download(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    refused(tmp_path / "root", "StanfordCars", "has no stanford_cars", "torchvision does not download it")


def test_nothing_is_downloaded_by_a_class_that_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path / "root", "SEMEION")
    monkeypatch.setattr("torchvision.datasets.semeion.check_integrity", lambda *_: False)
    monkeypatch.setattr("torchvision.datasets.semeion.download_url", lambda *_: pytest.fail("downloads"))
    refused(root, "SEMEION", "torchvision cannot read SEMEION (Dataset not found or corrupted.")


@pytest.mark.parametrize("name", ["SVHN", "USPS", "GTSRB"])
def test_a_missing_split(name: str, tmp_path: Path) -> None:
    root = made(tmp_path / "root", name)
    gone = {"SVHN": "test_32x32.mat", "USPS": "usps.t.bz2", "GTSRB": "gtsrb/GT-final_test.csv"}[name]
    (root / gone).unlink()
    refused(root, name, f"torchvision cannot read {name} (", "; `python -c ", "` downloads it")


def test_damaged_files(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "MNIST")
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    for content in (images.read_bytes()[:500], b"", b"something else"):
        images.write_bytes(content)
        refused(root, "MNIST", "torchvision cannot read MNIST (")


def test_files_that_were_to_be_unpickled_run_nothing(tmp_path: Path) -> None:
    """torchvision's early versions of MNIST were files of torch."""
    import pickle

    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    root = made(tmp_path / "root", "MNIST")
    folder = root / "MNIST" / "processed"
    folder.mkdir()
    for name in ("training.pt", "test.pt"):
        (folder / name).write_bytes(pickle.dumps(Bad(), protocol=2))
    refused(root, "MNIST", "torchvision cannot read MNIST (")
    assert not (tmp_path / "ran").exists()


def test_labels_with_holes_or_of_no_class(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "KMNIST")
    raw = root / "KMNIST" / "raw"
    idx(raw / "train-labels-idx1-ubyte", labels(TRAIN) * np.uint8(2))
    refused(root, "KMNIST", "KMNIST: 2 classes up to 2, and no 1; allowed: each of 0 to 1, if these are 2 classes")
    idx(raw / "train-labels-idx1-ubyte", labels(TRAIN))
    idx(raw / "t10k-labels-idx1-ubyte", labels(TEST, 1))
    refused(root, "KMNIST", "KMNIST (test): has 2; allowed: labels from 0 to 1, the classes of the training images")


def test_images_without_labels(tmp_path: Path) -> None:
    """Of FER2013 as it is for the contest: its test.csv has none. 255 is what torchvision makes of STL-10's label 0."""
    folder = tmp_path / "root" / "fer2013"
    pixels = " ".join(["0"] * 48 * 48)
    text(folder / "train.csv", ["emotion,pixels", f"0,{pixels}", f"1,{pixels}"])
    text(folder / "test.csv", ["pixels", pixels])
    refused(tmp_path / "root", "FER2013", "FER2013 (test): image 0 (test) has the label None; allowed: an integer for")
    root = made(tmp_path / "other", "STL10")
    np.array([0, 1, 2, 1, 2, 1], np.uint8).tofile(root / "stl10_binary" / "train_y.bin")
    refused(root, "STL10", "STL10: 3 classes up to 255, and no 2")


def test_a_broken_image_is_named_or_left_out(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "GTSRB")
    broken = root / "gtsrb" / "GTSRB" / "Training" / "00001" / "00003.ppm"
    broken.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with refusal(root, "gtsrb/GTSRB/Training/00001/00003.ppm is a broken image (none of the formats"):
        data.prepare("mine", settings_of(root, "GTSRB"), tmp_path / "made" / "mine", tmp_path)
    found = prepare(root, "GTSRB", broken_images="skip")
    assert values(found.train) == [pair for pair in labelled(TRAIN) if pair[0] != 3]


def test_images_are_upright_and_cut_as_those_of_other_sources(tmp_path: Path) -> None:
    from PIL import Image

    root = made(tmp_path / "root", "EuroSAT")
    picture = Image.fromarray(np.arange(0, 240, 10, np.uint8).reshape(4, 6).repeat(4, 0).repeat(4, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(root / "eurosat" / "2750" / "cat" / "000.jpg", quality=100, exif=exif)
    folder = {"source": "image-folder", "path": str(root / "eurosat" / "2750"), "size": SIZE, "mode": "L"}
    data.prepare("other", folder | {"test_fraction": 0.25}, tmp_path / "other", tmp_path)
    assert prepare(root, "EuroSAT").meta.fingerprint == prepared.read(tmp_path / "other").meta.fingerprint


def test_the_order_of_files_is_that_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision lists those of SUN397 as the file system does."""
    root = made(tmp_path / "root", "SUN397")
    one = prepare(root, "SUN397").meta.fingerprint
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(sorted(listed(self, pattern))))
    assert prepare(root, "SUN397").meta.fingerprint == one


def test_only_the_data_set_s_own_files_are_watched(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "SVHN")
    prepare(root, "SVHN")
    folder, settings = tmp_path / "made" / "mine", settings_of(root, "SVHN")
    LAYOUTS["EuroSAT"](root)
    assert data.reason_to_prepare("mine", settings, folder) is None
    (root / "test_32x32.mat").write_bytes(b"other")
    assert "files were added, changed or removed" in (data.reason_to_prepare("mine", settings, folder) or "")
    changed = data.reason_to_prepare("mine", settings | {"name": "USPS"}, folder)
    assert changed and changed.endswith("prepared with name: 'SVHN', which is now 'USPS'")
    for gone in root.glob("*.mat"):
        gone.unlink()
    assert data.reason_to_prepare("mine", settings, folder) is None


def test_an_image_that_is_listed_and_not_there(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "Food101")
    (root / "food-101" / "images" / "cat" / "4.jpg").unlink()
    refused(
        root, "Food101", "torchvision cannot read Food101 (1 of 6 files are not there, as food-101/images/cat/4.jpg); `"
    )
