"""Image folders: which split and class a file lands in, what is left out, and what is refused."""

import contextlib
import logging
import os
import shutil
import socket
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import SIZE, divided, flat, made, pets, prepare, refused, save, unreadable
from PIL import Image

from smallbatch.core.errors import UserError
from smallbatch.data import folder_listing, image_folder


def test_divided_folders_keep_their_splits_in_sorted_order(tmp_path: Path) -> None:
    found = prepare(divided(tmp_path / "photos"), mode="L")
    assert found.meta.classes == ("cat", "dog")
    assert found.meta.shape == (1, SIZE, SIZE)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert found.test.images[:, 0, 3, 3].tolist() == [0, 1, 100, 101]


def test_val_stands_for_test_unless_both_are_there(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos", "val")
    assert prepare(root).meta.test == 4
    pets(root / "test", 1)
    assert prepare(root).meta.test == 2


def test_a_class_may_have_folders_of_its_own(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    save(flat(50, "L"), root / "train" / "cat" / "a folder" / "deep.png")
    assert prepare(root, mode="L").train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 50, 100, 101, 102]


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    before = prepare(root).meta.fingerprint
    for name in ("train/cat/.hidden.png", "train/cat/notes.txt", "train/.cache/x.png", "train/cat/.git/x.png", "a.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    assert prepare(root).meta.fingerprint == before


def test_the_fingerprint_depends_neither_on_creation_order_nor_on_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0)
    images = {f"{name}/{i:03}.png": noise.integers(0, 256, (9, 9, 3), np.uint8) for name in "ab" for i in range(50)}
    for root, names in (("one", sorted(images)), ("two", sorted(images, reverse=True))):
        for name in names:
            save(Image.fromarray(images[name]), tmp_path / root / name)
    fingerprints = set()
    for root, cores in (("one", 1), ("one", 4), ("two", 4)):
        monkeypatch.setattr(image_folder, "processors", lambda cores=cores: cores)
        fingerprints.add(prepare(tmp_path / root, test_fraction=0.5).meta.fingerprint)
    assert len(fingerprints) == 1


def test_a_split_by_seed_takes_the_fraction_of_each_class(tmp_path: Path) -> None:
    root = pets(tmp_path / "photos", 10)
    found = prepare(root, mode="L", test_fraction=0.3)
    assert np.bincount(found.train.labels).tolist() == [7, 7]
    assert np.bincount(found.test.labels).tolist() == [3, 3]
    values = [*found.train.images[:, 0, 0, 0].tolist(), *found.test.images[:, 0, 0, 0].tolist()]
    assert sorted(values) == [*range(10), *range(100, 110)]
    assert (found.train.images[:, 0, 0, 0] // 100).tolist() == found.train.labels.tolist()
    assert (np.diff(found.train.images[:, 0, 0, 0].astype(int)) > 0).all()


def test_the_split_depends_on_the_seed_and_not_on_other_classes(tmp_path: Path) -> None:
    root = pets(tmp_path / "photos", 10)

    def chosen(seed: int) -> list[int]:
        test = prepare(root, mode="L", test_fraction=0.3, split_seed=seed).test
        return [value for value in test.images[:, 0, 0, 0].tolist() if value < 200]

    first = chosen(0)
    assert first == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(4)}) == 4
    assert [value - 100 for value in first[3:]] != first[:3], "classes are drawn each on its own"
    for number in range(10):
        save(flat(200 + number, "L"), root / "ant" / f"{number}.png")
    assert chosen(0) == first


def test_the_seed_is_zero_unless_given(tmp_path: Path) -> None:
    root = pets(tmp_path / "photos", 10)
    default, zero, one = (
        prepare(root, test_fraction=0.3, **seed) for seed in ({}, {"split_seed": 0}, {"split_seed": 1})
    )
    assert default.meta.fingerprint == zero.meta.fingerprint != one.meta.fingerprint


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such file or folder")


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    for root, make, found in (("empty", ".", "other file beside"), ("text", "cat", ".txt file"), ("in", "a/b", ".txt")):
        (tmp_path / root / make).mkdir(parents=True)
        (tmp_path / root / make / "notes.txt").write_text("x")
        refused(tmp_path / root, f"no class folders with images; found: 1 {found}", test_fraction=0.5)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    save(flat(0), tmp_path / "photos" / "a.png")
    refused(tmp_path / "photos", "no class folders", test_fraction=0.5)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train" / "eel").mkdir()
    (root / "test" / "eel").mkdir()
    refused(root, f"{root / 'train'}: class folders without images: eel")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    save(flat(0), tmp_path / "photos" / "cat" / "a.png")
    refused(tmp_path / "photos", "one class folder, cat", test_fraction=0.5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_of_one_split_alone_are_named(tmp_path: Path, split: str) -> None:
    root = divided(tmp_path / "photos")
    save(flat(0), root / split / "eel" / "a.png")
    save(flat(0), root / split / "ant" / "a.png")
    refused(root, "different classes", f"only in {split}/: ant, eel")


@pytest.mark.parametrize(("fraction", "less"), [(0.1, "no test image"), (0.9, "no training image")])
def test_a_split_that_leaves_a_class_with_nothing_is_refused(tmp_path: Path, fraction: float, less: str) -> None:
    root = pets(tmp_path / "photos", 4)
    refused(root, f"test_fraction: {fraction} leaves class cat (4 images)", less, test_fraction=fraction)


def test_the_fraction_is_asked_for_and_refused_where_it_means_nothing(tmp_path: Path) -> None:
    refused(pets(tmp_path / "photos"), "test_fraction: None is not allowed", "between 0 and 1")
    refused(divided(tmp_path / "other"), "test_fraction: 0.5 is not allowed", "train/ and test/", test_fraction=0.5)


def test_a_folder_that_cannot_be_written_is_named_before_any_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    root = unreadable(divided(tmp_path / "photos"))
    with pytest.raises(UserError, match="taken: cannot be written"):
        prepare(root, tmp_path / "taken" / "pets")


SPLIT_NAMES = ["train test", "training testing", "Train Test", "TRAIN TEST", "Training Validation", "train val"]
SPLIT_NAMES += ["train valid", "Train Val", "train validation", "training valid", "TRAIN VAL", "Train Testing"]


@pytest.mark.parametrize("names", SPLIT_NAMES)
def test_splits_are_known_by_their_usual_names(tmp_path: Path, names: str) -> None:
    train, test = names.split()
    pets(tmp_path / "photos" / train, 3)
    pets(tmp_path / "photos" / test, 2)
    found = prepare(tmp_path / "photos")
    assert (found.meta.classes, found.meta.train, found.meta.test) == (("cat", "dog"), 6, 4)


LAYOUTS = {
    "the test split is test/; left out: 2 files in val/": "train/a/1 train/b/1 test/a/1 test/b/1 val/a/1 val/b/1",
    "the test split is val/; left out: 1 file in test/": "train/a/1 train/b/1 test/1 val/a/1 val/b/1",
    "left out: 1 file in extra/": "train/a/1 train/b/1 test/a/1 test/b/1 extra/1",
    "looked for in deep/inner/": "deep/inner/train/a/1 deep/inner/train/b/1 deep/inner/test/a/1 deep/inner/test/b/1",
    "looked for in train/train/": "train/train/a/1 train/train/b/1 test/a/1 test/b/1",
    "classes: a 1 + 1, b 1 + 1 (training + test images)": "train/a/1 train/b/1 test/a/1 test/b/1",
    "train: pictures in subfolders of class folders, which belong to these classes: 1": (
        "train/a/x/1 train/b/1 test/a/1 test/b/1"
    ),
    "left out: 1 picture beside the class folders": "train/1 train/a/1 train/b/1 test/a/1 test/b/1",
}


@pytest.mark.parametrize("told", LAYOUTS)
def test_what_the_folders_were_taken_for_is_reported(
    tmp_path: Path, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = prepare(made(tmp_path / "photos", LAYOUTS[told]))
    assert (found.meta.classes, found.meta.train, found.meta.test) == (("a", "b"), 2, 2)
    for part in told.split("; "):
        assert part in caplog.text


def test_test_images_that_are_training_images_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        save(flat(50 * number), root / place / "1.png")
    prepare(root)
    assert "are training images" not in caplog.text
    for name in ("train/cat", "test/dog"):
        save(flat(77), root / name / "2.png")
    prepare(root)
    assert "photos: 1 of 3 test images are training images, too, to the last pixel" in caplog.text


def test_training_images_of_several_classes_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    for number, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        save(flat(50 * number), root / name / "1.png")
    save(flat(0), root / "train/cat/again.png")
    prepare(root)
    assert "in another class" not in caplog.text, "twice in one class is no contradiction"
    save(flat(0), root / "train/dog/2.png")
    prepare(root)
    assert "photos: 3 of 4 training images are in another class, too, to the last pixel" in caplog.text


DOUBTFUL = {
    "train alone": (
        "train/a/1 train/b/1",
        "train/ alone: either a split, and test/ or val/ is missing; or all there is",
    ),
    "test alone": ("Test/a/1 Test/b/1", "Test/ alone: either a split, and train/ is missing"),
    "two but no train": (
        "test/a/1 test/b/1 val/a/1 val/b/1",
        "test/, val/ alone: either a split, and train/ is missing",
    ),
    "train and a class": (
        "train/a/1 cat/1",
        "train/ beside cat/: either a split, and test/ or val/ is missing; or classes",
    ),
    "splits of one name": ("train/a/1 Train/a/1 test/a/1", "Train/, train/ are names of one split"),
    "val and valid": ("train/a/1 val/a/1 valid/a/1", "val/, valid/ are names of one split"),
    "Kaggle": ("seg_train/a/1 seg_train/b/1 seg_test/a/1 seg_test/b/1", "seg_train/, seg_test/: either splits"),
    "a set each": ("training_set/a/1 test_set/a/1", "training_set/, test_set/: either splits"),
    "years": ("train2017/1 val2017/1", "train2017/, val2017/: either splits"),
    "domains": (
        "photo/a/1 photo/b/1 sketch/a/1 sketch/b/1",
        "photo/, sketch/ hold folders alone, a/, b/ in several: either parts of the data, then unite them or let "
        "`path` name one; or classes, then unite what each holds",
    ),
    "domains of which one lacks a class": ("photo/a/1 photo/b/1 sketch/a/1", "photo/, sketch/ hold folders alone, a/ "),
    "domains in splits": (
        "train/photo/a/1 train/sketch/a/1 train/sketch/b/1 test/photo/a/1 test/sketch/a/1",
        "train: doubtful: photo/, sketch/ hold folders alone, a/ in several: either parts",
    ),
    "folds": (
        "fold1/a/1 fold1/b/1 fold2/a/1 fold2/c/1 fold3/b/1 fold3/c/1",
        "fold1/, fold2/, fold3/ hold folders alone, a/, b/, c/ in several: either parts",
    ),
    "parts": (
        "part1/a/1 part1/b/1 part2/c/1 part2/d/1",
        "part1/, part2/ are numbered and hold folders alone, a/, b/, c/, d/: either parts of the data, then unite",
    ),
    "parts of a number": ("1of2/a/1 1of2/b/1 2of2/c/1", "1of2/, 2of2/ are numbered"),
    "shards": ("Shard_00001-of-2/a/1 shard-2-of-2/b/1", "shard-2-of-2/ are numbered"),
    "masks": (
        "images/1 images/2 masks/1 masks/2",
        "photos: doubtful: masks/ beside images/: either masks or labels, which are no class, then move them out; or "
        "pictures of their own, then rename them",
    ),
    "labels": ("Images/1 labels/1 cat/1", "labels/ beside Images/: either masks or labels, which are no class"),
    "Pets": ("images/1 images/2 annotations/trimaps/1", "annotations/ beside images/: either masks or labels"),
    "VOC": ("JPEGImages/1 SegmentationClass/1 SegmentationObject/1", "SegmentationObject/ beside JPEGImages/: either"),
    "masks of one kind": ("cat_images/1 cat-masks/1 dog/1", "cat-masks/ beside cat_images/: either masks or labels"),
    "masks in classes": (
        "COVID/images/1 COVID/masks/1 Normal/images/1 Normal/masks/1",
        "photos: doubtful: COVID/masks/ beside COVID/images/: either masks or labels",
    ),
    "masks in splits": ("train/images/1 train/labels/1 test/images/1 test/labels/1", "labels/ beside images/: either"),
    "masks in a class folder": ("cat/1 cat/mask/1 dog/1", "cat/mask/ beside pictures in cat/: either masks or labels"),
    "BUSI": (
        "benign/b_(1) benign/b_(1)_mask benign/b_(2) benign/b_(2)_mask benign/b_(2)_mask_1 normal/1",
        "photos: doubtful: class benign: 3 of 5 pictures are called as masks of others, as benign/b_(1)_mask.png of "
        "benign/b_(1).png: either masks, then move them out; or pictures of their own, then call them otherwise",
    ),
    "labels of pictures": (
        "cat/1 cat/1-Label dog/1",
        "1 of 2 pictures are called as masks of others, as cat/1-Label.png",
    ),
    "one mask among ten": (
        "dog/1 cat/1 cat/1_gt " + " ".join(f"cat/{n}" for n in range(2, 10)),
        "1 of 10 pictures are called as masks of others, as cat/1_gt.png of cat/1.png",
    ),
    "splits within classes": ("a/train/1 a/test/1 b/train/1 b/test/1", "a/ holds train/ and test/ or val/"),
    "a class and its test images": ("cat/1 cat/2 cat_test/1 dog/1", "cat/, cat_test/: either splits, then"),
    "training images of a class": ("cat/1 dog/1 training-cat/1", "cat/, training-cat/: either splits, then"),
    "capitals": ("Cat/1 cat/1 dog/1", "'Cat' and 'cat' have one name"),
    "accents": ("caf\u00e9/1 cafe\u0301/1", "'cafe\\u0301' and 'caf\\xe9' have one name"),
    "thumbnails beside classes": ("cat/1 dog/1 Thumbnails/1", "Thumbnails/: either copies of other pictures, then"),
    "thumbnails in a class": ("cat/1 cat/a/_thumbs/1 dog/1", "cat/a/_thumbs/: either copies of other pictures, then"),
    "previews": ("train/a/1 train/b/1 test/a/1 test/a/preview/1 test/b/1", "a/preview/: either copies"),
    "flat splits": ("train/1 test/1", "no class folders with images; found: 1 picture beside"),
    "capitals between splits": ("train/Cat/1 train/b/1 test/cat/1 test/b/1", "only in train/: Cat; only in test/: cat"),
}


@pytest.mark.parametrize("layout", DOUBTFUL)
def test_what_can_be_read_in_two_ways_is_refused_with_both(tmp_path: Path, layout: str) -> None:
    files, told = DOUBTFUL[layout]
    refused(made(tmp_path / "photos", files), told)


def test_train_alone_is_taken_where_the_path_names_it(tmp_path: Path) -> None:
    made(tmp_path / "photos", "train/a/1 train/a/2 train/b/1 train/b/2")
    assert prepare(tmp_path / "photos" / "train", test_fraction=0.5).meta.train == 2


@pytest.mark.parametrize("inner", ["2023 2024-11", "left other", "one one"])
def test_folders_within_classes_are_parts_of_them(tmp_path: Path, inner: str) -> None:
    """Unless they hold nothing else and share names, which are no years."""
    first, second = inner.split()
    made(tmp_path / "photos", f"a/{first}/1 a/{second}/2 b/{first}/1 b/{second}/2")
    if inner == "left other":
        save(flat(1), tmp_path / "photos" / "a" / "3.png")
    assert prepare(tmp_path / "photos", test_fraction=0.5).meta.classes == ("a", "b")


CLASSES = {
    "kinds": "animals/cat/1 animals/dog/1 vehicles/car/1 vehicles/bus/1",
    "synsets": "n01443537/images/1 n01443537/images/2 n01629819/images/1 n01629819/images/2",
    "long numbers": "n01443537/a/1 n01443537/b/1 n01629819/c/1 n01629819/d/1",
    "numbers alone": "0/a/1 0/b/1 1/c/1 1/d/1",
    "classes by their name": "class1/a/1 class1/b/1 class2/c/1 class2/d/1",
    "pictures in numbered folders": "c1/1 c1/2 c2/1 c2/x/2",
    "a class of labels": "labels/1 labels/2 depth/1 depth/x/2 jars/1 jars/2",
    "masks of no picture": "cat/1_mask cat/x/2_mask cat/3 dog/with_mask dog/mask",
    "one mask among eleven": "dog/1 dog/2 cat/x/11 cat/1_mask " + " ".join(f"cat/{n}" for n in range(1, 10)),
    "pictures in folders": "cat/images/1 cat/old/2 dog/images/1 dog/images/2",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_folders_of_folders_may_be_classes_and_the_log_says_so(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = CLASSES[kind].split()
    deep = [file for file in files if file.count("/") > 1]
    with caplog.at_level(logging.INFO):
        found = prepare(made(tmp_path / "photos", " ".join(files)), test_fraction=0.5)
    assert found.meta.classes == tuple(sorted({file.split("/")[0] for file in files}))
    folders = ", ".join(sorted({f"{file.rpartition('/')[0]}/" for file in deep}))
    told = f"pictures in subfolders of class folders, which belong to these classes: {len(deep)} ({folders})\n"
    assert told in caplog.text


def test_files_that_are_no_pictures_change_no_reading(tmp_path: Path) -> None:
    root = made(tmp_path / "photos", "photo/a/1 photo/b/1 sketch/a/1 sketch/b/1")
    for name in ("README.txt", "photo/README.txt", "sketch/notes", "sketch/a/notes.txt"):
        (root / name).write_text("no picture")
    refused(root, "photo/, sketch/ hold folders alone, a/, b/ in several: either parts of the data")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 300, "fifo"])
def test_a_path_that_can_be_none_ends_in_one_line_and_is_not_watched(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        prepare(Path(path), tmp_path / "prepared" / "pets")
    if path != "fifo":
        assert folder_listing.stat_digest(path) is None


def test_words_within_class_names_are_no_splits(tmp_path: Path) -> None:
    made(tmp_path / "photos", "train-station/1 train-station/2 test-tube/1 test-tube/2 valley/1 valley/2")
    assert prepare(tmp_path / "photos", test_fraction=0.5).meta.classes == ("test-tube", "train-station", "valley")


def test_accents_are_the_same_however_they_are_encoded(tmp_path: Path) -> None:
    """macOS and Linux write them in two ways; names sort, and images are drawn, by one."""
    fingerprints = set()
    for form in ("NFC", "NFD"):
        for name in ("caf\u00e9", "cafz", "\u00e0"):
            for number in range(6):
                file = f"{name}/caf\u00e9 {number}" if number % 2 else f"{name}/cafz {number}"
                save(flat(10 * number), tmp_path / form / (unicodedata.normalize(form, file) + ".png"))
        found = prepare(tmp_path / form, test_fraction=0.5)
        fingerprints.add(found.meta.fingerprint)
        assert found.meta.classes == ("cafz", "caf\u00e9", "\u00e0")
    assert len(fingerprints) == 1


SYSTEM = {
    "cat/@eaDir/00.png/SYNOPHOTO_THUMB_M.jpg": "4 files in @eaDir/",
    "cat/.thumbnails/a.jpg": "4 files in .thumbnails/",
    "@eaDir/a.jpg": "4 files in @eaDir/",
    ".ipynb_checkpoints/a.png": "4 files in .ipynb_checkpoints/",
    "__MACOSX/cat/._00.png": "4 files in __MACOSX/",
    "$RECYCLE.BIN/a.png": "4 files in $RECYCLE.BIN/",
    "System Volume Information/a.png": "4 files in System Volume Information/",
    "lost+found/a.png": "4 files in lost+found/",
    "#recycle/a.png": "4 files in #recycle/",
    "cat/Thumbs.db": "4 hidden or system files",
    "cat/desktop.ini": "4 hidden or system files",
    "cat/Icon\r": "4 hidden or system files",
    "cat/.DS_Store": "4 hidden or system files",
    "cat/._00.png": "4 hidden or system files",
    "cat/.IMG_1.HEIC.icloud": "4 files that iCloud has not downloaded",
    "cat/IMG.CR2": "4 camera raw files",
    "cat/MVI.THM": "4 thumbnails of videos",
    "cat/MVI.MOV": "4 .mov files",
    "cat/readme": "4 files of no known kind",
}


@pytest.mark.parametrize("name", SYSTEM)
def test_what_systems_and_cameras_add_is_no_class_and_no_image(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = divided(tmp_path / "photos")
    before = prepare(root).meta.fingerprint
    content = (root / "train/cat/00.png").read_bytes() if name.endswith((".png", ".jpg", ".THM")) else b"something"
    for split in ("train", "test"):
        for number in (1, 2):
            file = root / split / (name if number == 1 else name.replace("cat/", "dog/"))
            if file.exists():
                file = file.with_name(f"{file.stem}2{file.suffix}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert prepare(root).meta.fingerprint == before
    assert f"left out: {SYSTEM[name]}\n" in caplog.text


def test_linked_folders_are_followed_and_cycles_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = divided(tmp_path / "photos")
    save(flat(50, "L"), tmp_path / "elsewhere" / "x" / "0.png")
    (root / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "x" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "above").symlink_to(tmp_path)
    with caplog.at_level(logging.INFO):
        found = prepare(root, mode="L")
    assert found.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 50, 100, 101, 102]
    assert "left out: 3 linked folders (read elsewhere)\n" in caplog.text


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert prepare(root, mode="L").train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


@pytest.mark.parametrize("place", ["train/eel", "train/cat/more", "train/cat/07.png"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, place: str) -> None:
    root = divided(tmp_path / "photos")
    (root / place).symlink_to(tmp_path / "not mounted")
    refused(root, place)


def test_a_class_that_is_a_link_to_what_holds_it_is_named(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train" / "eel").symlink_to(root)
    refused(root, f"train/eel: a link to {root}, a folder that it lies in itself")


def test_two_classes_of_one_folder_are_refused(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train" / "eel").symlink_to("dog")
    (root / "test" / "eel").symlink_to("dog")
    refused(root, "class folders without images: eel; found: 1 linked folder (read elsewhere)")


@pytest.mark.parametrize("linked", ["test", "test/cat", "test/cat/new.png"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_test_image_that_is_a_training_image_is_refused(tmp_path: Path, linked: str, hard: bool) -> None:
    root = divided(tmp_path / "photos")
    place, source = root / linked, root / linked.replace("test", "train", 1).replace("new", "00")
    if hard:
        os.link(root / "train/cat/00.png", root / "test/cat/new.png")
    else:
        shutil.rmtree(place) if place.is_dir() else None
        place.symlink_to(source)
    refused(root, "are one file, by a link; allowed: test images that are no training images", "train/cat/00.png")


def test_special_files_are_never_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = divided(tmp_path / "photos")
    for name in ("a.png", "b"):
        os.mkfifo(root / "train" / "cat" / name)
    (root / "train" / "cat" / "c.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkey = Path("d.png")
        with contextlib.chdir(root / "train" / "cat"):  # the names of sockets are short
            server.bind(str(monkey))
    with caplog.at_level(logging.INFO):
        assert prepare(root).meta.train == 6
    told = "left out: 2 special files (FIFO), 1 special file (device), 1 special file (socket)\n"
    assert told in caplog.text


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = divided(tmp_path / "photos")
    real = os.scandir

    def locked(place: Path) -> Any:
        if str(place).endswith("train/dog"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(folder_listing.os, "scandir", locked)
    refused(root, "train/dog cannot be read (Permission denied)")


def test_names_that_are_not_text_are_taken_for_files_and_refused_for_classes(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    save(flat(50, "L"), root / "train" / "cat" / "0a.png")
    (root / "train" / "cat" / "0a.png").rename(root / "train" / "cat" / os.fsdecode(b"b\xf6ld\n.png"))
    assert prepare(root, mode="L").train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 50, 100, 101, 102]
    shutil.rmtree(tmp_path / "prepared")
    (root / "train" / "cat" / os.fsdecode(b"b\xf6ld\n.png")).write_bytes(b"")
    refused(root, r"train/cat/b\udcf6ld\n.png is a broken image (")
    (root / "train" / os.fsdecode(b"m\xf6we")).mkdir()
    refused(root, r"a class folder's name is not text in UTF-8: b'm\xf6we'")


def test_a_class_may_have_any_text_for_a_name_and_messages_keep_one_line(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "\U0001f436 dog\nnew, ti;'\"")
    assert prepare(root).meta.classes == ("cat", "\U0001f436 dog\nnew, ti;'\"")
    shutil.rmtree(tmp_path / "prepared")
    (root / "train" / "e\nel").mkdir()
    refused(root, r"class folders without images: e\nel")


def test_the_watch_notices_names_sizes_and_times_and_reads_nothing(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")

    def seen() -> str | None:
        return folder_listing.stat_digest(str(root))

    first = seen()
    assert first is not None
    assert first == seen()
    file = root / "train" / "cat" / "00.png"
    found = file.stat()
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    later = seen()
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert later != first == seen()
    file.rename(file.with_name("99.png"))
    assert seen() != first
    file.with_name("99.png").rename(file)
    os.mkfifo(root / "train" / "cat" / "fifo")
    (root / "train" / ".DS_Store").write_text("x")
    assert seen() == first
    (root / "train" / "cat" / "link.png").symlink_to("nowhere")
    assert seen() not in (first, None)
    shutil.rmtree(root)
    assert seen() is None


def ordinary(root: Path) -> Path:
    """Images in several formats, depths and folders, from numbers alone."""
    values, number = np.arange(12 * 9 * 3), 0
    for name in ("cat", "dog", "Ant", "a b"):
        for ending in ("png", "bmp", "PPM", "gif", "tif", "webp"):
            for folder in ("", "2024/"):
                number += 1
                pixels = (values * number % 251).astype(np.uint8).reshape(12, 9, 3)
                lossless = {"lossless": True} if ending == "webp" else {}
                save(Image.fromarray(pixels), root / name / f"{folder}{number:02}.{ending}", **lossless)
        save(Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)), root / name / "deep.png")
        save(Image.fromarray(np.full((8, 8, 4), 100, np.uint8)), root / name / "alpha.png")
    (root / "cat" / "notes.txt").write_text("no picture")
    (root / "cat" / ".hidden.png").write_text("no picture")
    return root


def test_an_ordinary_folder_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Recorded before content decided what an image is: runs that were trained on such folders stay valid."""
    root = ordinary(tmp_path / "photos")
    found = prepare(root, test_fraction=0.25, split_seed=3).meta.fingerprint
    assert found == "86d921f8f36e33d8fb132b31deeb73e3602384bda9e7ae31aa3faf2495c34558"
    for split in ("train", "val"):
        ordinary(tmp_path / "divided" / split)
    found = prepare(tmp_path / "divided", mode="L").meta.fingerprint
    assert found == "124ffef2f7ecd4855d2e21b9a78a7a6a28f302ddf5531121bc427515b9116ee1"
