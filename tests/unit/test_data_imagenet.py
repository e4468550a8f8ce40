"""ImageNet: archives and folders in every allowed form, what is refused, and the name that only the original has."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import refusal
from PIL import Image
from scipy.io import savemat
from torchvision.models import ResNet50_Weights

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import imagenet, photos, prepared
from smallbatch.data.imagenet import DEVKIT, SYNSETS, TRAIN, VALIDATION, VALIDATION_LABELS

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

IDS = {"n02000000": 1, "n01000000": 2}  # the kit's numbers do not follow the names' order


def jpeg(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """A photo: smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(file, "JPEG")
    return file.getvalue()


PHOTOS = {
    "train": {
        "n01000000": {"n01000000_10.JPEG": jpeg(0), "n01000000_9.JPEG": jpeg(1, (30, 50)), "x.jpg": jpeg(2, mode="L")},
        "n02000000": {"n02000000_1.JPEG": jpeg(3, mode="CMYK")},
    },
    "val": {
        "n01000000": {"ILSVRC2012_val_00000002.JPEG": jpeg(4), "ILSVRC2012_val_00000003.JPEG": jpeg(5)},
        "n02000000": {"ILSVRC2012_val_00000001.JPEG": jpeg(6)},
    },
}


def tar_of(members: dict[str, bytes], mode: str = "w", **options: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def flat(split: str) -> dict[str, bytes]:
    return {name: photo for images in PHOTOS[split].values() for name, photo in images.items()}


def devkit(root: Path) -> None:
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "some words", 0) for wnid, number in IDS.items()] + [(3, "n00000001", "whole", 2)]
    mat = io.BytesIO()
    savemat(mat, {"synsets": np.array(rows, kinds)})
    write(root / DEVKIT, tar_of({VALIDATION_LABELS: b"1\n2\n2\n", SYNSETS: mat.getvalue()}, "w:gz"))


def train_tar(root: Path) -> None:
    write(root / TRAIN, tar_of({f"{name}.tar": tar_of(images) for name, images in PHOTOS["train"].items()}))


def val_tar(root: Path) -> None:
    write(root / VALIDATION, tar_of(flat("val")))
    devkit(root)


def class_folders(root: Path, *splits: str) -> None:
    for split in splits or PHOTOS:
        for name, images in PHOTOS[split].items():
            for image, photo in images.items():
                write(root / split / name / image, photo)


def flat_val(root: Path) -> None:
    for name, photo in flat("val").items():
        write(root / "val" / name, photo)
    devkit(root)


LAYOUTS = {
    "archives": (train_tar, val_tar),
    "class folders": (class_folders,),
    "flat val": (lambda root: class_folders(root, "train"), flat_val),
    "train archive, val folders": (train_tar, lambda root: class_folders(root, "val")),
}


def laid_out(root: Path, layout: str = "archives") -> Path:
    for part in LAYOUTS[layout]:
        part(root)
    return root


def prepare(root: Path, label: str = "sample", folder: str = "prepared") -> prepared.Prepared:
    out = root.parent / folder
    data.prepare(label, {"source": "imagenet", "path": str(root), "label": label}, out, out / "downloads")
    return prepared.read(out)


def refused(root: Path, *parts: str, label: str = "sample") -> None:
    with refusal(root, *parts):
        prepare(root, label)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_data(layout: str, tmp_path: Path) -> None:
    found = prepare(laid_out(tmp_path / "net", layout))
    assert found.meta.classes == ("n01000000", "n02000000")
    assert (found.meta.label, found.meta.train, found.meta.test) == ("sample", 4, 3)
    assert found.train.labels.tolist() == [0, 0, 0, 1] and found.test.labels.tolist() == [0, 0, 1]
    assert found.train.images.sizes.tolist() == [[30, 40], [50, 30], [30, 40], [30, 40]]
    expected = [photo for split in PHOTOS for images in PHOTOS[split].values() for _, photo in sorted(images.items())]
    splits = (found.train.images, found.test.images)
    assert [photos.read(place) for photos in splits for place in range(len(photos))] == expected
    class_folders(tmp_path / "plain")
    assert found.meta.fingerprint == prepare(tmp_path / "plain", folder="other").meta.fingerprint


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    here = prepare(laid_out(tmp_path / "net")).meta
    (tmp_path / "net").rename(tmp_path / "moved")
    moved = prepare(tmp_path / "moved").meta
    assert (here.fingerprint, here.photos) == (moved.fingerprint, str(tmp_path / "net"))
    assert moved.photos == str(tmp_path / "moved")


@pytest.mark.parametrize("change", ["a byte", "a class", "a name"])
def test_the_fingerprint_sees_the_photos(change: str, tmp_path: Path) -> None:
    before = prepare(laid_out(tmp_path / "net", "class folders")).meta.fingerprint
    image = tmp_path / "net" / "train" / "n01000000" / "x.jpg"
    if change == "a byte":  # behind the end mark, where no pixel sees it
        image.write_bytes(image.read_bytes() + b"!")
    elif change == "a class":
        image.rename(image.parents[1] / "n02000000" / image.name)
    else:
        image.rename(image.with_name("a.jpg"))
    assert prepare(tmp_path / "net").meta.fingerprint != before


def test_preprocessing_constants_are_torchvisions(tmp_path: Path) -> None:
    meta, theirs = prepare(laid_out(tmp_path / "net")).meta, ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert (meta.shape, meta.mean, meta.std) == ((3, *2 * theirs.crop_size), (*theirs.mean,), (*theirs.std,))
    assert theirs.resize_size == [photos.RESIZED]


def test_only_regular_members_with_an_images_name_are_taken(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    with tarfile.open(root / VALIDATION, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("ILSVRC2012_val_00000009.JPEG")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("._ILSVRC2012_val_00000001.JPEG"))
        tar.addfile(tarfile.TarInfo("readme.txt"))
    assert prepare(root).meta.test == 3


@pytest.mark.parametrize(
    ("gone", "parts"),
    [
        ((TRAIN,), ("no training images", TRAIN, "train/ with class folders")),
        ((VALIDATION,), ("no validation images", VALIDATION, "val/")),
        ((DEVKIT,), ("no labels of the validation images", DEVKIT, "val/ with class folders")),
    ],
)
def test_what_is_missing_is_named(gone: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    for name in gone:
        (root / name).unlink()
    refused(root, *parts)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "net", "no such folder", TRAIN, VALIDATION, DEVKIT)


@pytest.mark.parametrize("left", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_a_truncated_archive_is_named(name: str, left: float, tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: int(left * len(whole.rstrip(b"\0")))])
    refused(root, name, "damaged")


def test_an_archive_cut_between_two_members_is_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    with tarfile.open(root / VALIDATION) as tar:
        last = tar.getmembers()[-1].offset
    (root / VALIDATION).write_bytes((root / VALIDATION).read_bytes()[:last])
    refused(root, VALIDATION, "cut short")


def test_a_class_that_is_cut_short_inside_a_whole_archive_is_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    classes = {f"{name}.tar": tar_of(images) for name, images in PHOTOS["train"].items()}
    classes["n02000000.tar"] = classes["n02000000.tar"][:1024]
    write(root / TRAIN, tar_of(classes))
    refused(root, TRAIN, "damaged")


def test_a_compressed_archive_is_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    write(root / VALIDATION, tar_of(flat("val"), "w:gz"))
    refused(root, VALIDATION, "damaged or not such an archive")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PHOTO_LIMIT", 100)
    refused(laid_out(tmp_path / "net"), f"{TRAIN}: n01000000.tar/n01000000_10.JPEG has ", "allowed are 100")


@pytest.mark.parametrize("layout", ["archives", "class folders"])
@pytest.mark.parametrize("broken", [PHOTOS["train"]["n02000000"]["n02000000_1.JPEG"][:-30], b"not a photo", b""])
def test_a_broken_photo_is_named(broken: bytes, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHOTOS["train"], "n02000000", {"n02000000_1.JPEG": broken})
    place = f"{TRAIN}: n02000000.tar/n02000000_1.JPEG" if layout == "archives" else "train/n02000000/n02000000_1.JPEG"
    refused(laid_out(tmp_path / "net", layout), f"{place}: is a broken image (")


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        ({VALIDATION_LABELS: b"1\n2\n2\n"}, ("has no member", SYNSETS)),
        ({VALIDATION_LABELS: b"1\n2\n2\n", SYNSETS: b"x"}, ("is damaged",)),
        ({VALIDATION_LABELS: b"one", SYNSETS: b"x"}, ("is damaged",)),
    ],
)
def test_a_damaged_development_kit_is_named(members: dict, parts: tuple, tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net")
    write(root / DEVKIT, tar_of(members, "w:gz"))
    refused(root, DEVKIT, *parts)


@pytest.mark.parametrize("name", ["ILSVRC2012_val_00000004.JPEG", "ILSVRC2012_val_00000000.JPEG", "photo.jpg"])
def test_a_validation_image_without_a_label_is_named(name: str, tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net", "flat val")
    write(root / "val" / name, jpeg(9))
    refused(root, name, "up to 3")


def test_a_class_in_one_split_alone_is_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net", "class folders")
    write(root / "train" / "n03000000" / "a.JPEG", jpeg(9))
    refused(root, "class n03000000 has training images but no validation images")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net", "class folders")
    (root / "train" / "n03000000").mkdir()
    refused(root, "class n03000000 has no training images", ".jpeg .jpg")


def test_what_is_left_out_is_reported_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = laid_out(tmp_path / "net", "class folders")
    for name in ("a.png", "b.PNG", "c", ".hidden.png"):
        write(root / "train" / "n02000000" / name, jpeg(1))
    (root / "val" / "n02000000" / "more").mkdir()
    prepare(root)
    told = "left out: 2 .png files, 1 file of no known kind, 1 folder in class folders"
    assert f"{root}: {told}" in caplog.text


def test_a_class_whose_name_is_no_text_and_a_home_of_nobody_are_named(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "net", "class folders")
    os.mkdir(os.fsencode(root / "train") + b"/m\xf6we")
    refused(root, "train: a class folder's name is no plain text: 'm\\udcf6we'; rename it")
    settings = {"source": "imagenet", "path": "~nobody-of-this-name/x", "label": "sample"}
    assert imagenet.stat_digest(settings) is None
    with pytest.raises(UserError, match="~nobody-of-this-name/x: cannot be read"):
        data.prepare("sample", settings, tmp_path / "prepared", tmp_path / "downloads")


def test_only_the_original_is_called_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = laid_out(tmp_path / "net")
    refused(root, "label: 'imagenet'", "there are 2 classes, and ImageNet has 1000", label="imagenet")
    settings = {"source": "imagenet", "path": str(root)}
    with pytest.raises(UserError, match="label: 'photos' is not allowed; allowed: a name of its own"):
        data.prepare("photos", settings, tmp_path / "out", tmp_path)
    for label, source in (("ImageNet", "image-folder"), ("image-net", "digits")):
        with pytest.raises(UserError, match=r"this one is kept for `source: imagenet`$"):
            others = {"path": "x", "size": 8} if source == "image-folder" else {}
            data.check_settings("config.yaml", "mine", {"source": source, "label": label, **others})
    monkeypatch.setattr(imagenet, "ORIGINAL", {"classes": 2, "training images": 4, "validation images": 3})
    assert prepare(root, "imagenet").meta.label == "imagenet"


def test_settings_are_checked_without_the_folder() -> None:
    settings = {"source": "imagenet", "path": "nowhere"}
    data.check_settings("config.yaml", "imagenet", settings)
    assert data.known_train_images(settings) == 1_281_167
    assert data.known_train_images(settings | {"label": "imagenet-sample"}) is None
    with pytest.raises(UserError, match=r"datasets.mine.path: None is not allowed"):
        data.check_settings("config.yaml", "mine", {"source": "imagenet"})


PHOTO, ARRAY = {"source": "imagenet", "path": "x"}, {"source": "digits"}


@pytest.mark.parametrize(
    ("settings", "augment", "key"),
    [
        (PHOTO, {"resized_crop": True, "flip": True}, None),
        (PHOTO, {"pad": 0, "flip": True}, None),
        (ARRAY, {"pad": 4, "flip": True}, None),
        (ARRAY, {"resized_crop": False}, None),
        (PHOTO, {"flip": True, "cutout": 224, "saturation": 0.4}, None),
        (PHOTO, {"flip": True, "cutout": 225}, "cutout: 225"),
        (PHOTO, {"pad": 4}, "pad: 4"),
        (ARRAY, {"resized_crop": True}, "resized_crop: True"),
    ],
)
def test_augmentation_must_fit_the_data(settings: dict, augment: dict, key: str | None) -> None:
    arguments = ("study.yaml", "experiments.one", settings, augment)
    if key is None:
        data.check_augment(*arguments)
        return
    with pytest.raises(UserError, match=rf"^study.yaml: experiments.one.augment.{key} is not allowed; allowed: "):
        data.check_augment(*arguments)


@pytest.mark.parametrize("made", ["photos", "arrays"])
def test_an_index_is_not_taken_for_pixels_nor_pixels_for_an_index(made: str, tmp_path: Path) -> None:
    prepare(laid_out(tmp_path / "net"))
    pixels = prepared.Split(np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64))
    prepared.write(tmp_path / "arrays", "arrays", ("a",), pixels, pixels)
    folders = {"photos": tmp_path / "prepared", "arrays": tmp_path / "arrays"}
    other = next(folder for name, folder in folders.items() if name != made)
    (folders[made] / "train_images.npy").write_bytes((other / "train_images.npy").read_bytes())
    with pytest.raises(UserError, match="damaged"):
        prepared.read(folders[made])


@pytest.mark.parametrize("part", ["class", "image", "validation"])
def test_what_stands_twice_in_an_archive_is_named(part: str, tmp_path: Path) -> None:
    """By their own names: the first one would be lost."""
    root = laid_out(tmp_path / "net")
    name, images = next(iter(PHOTOS["train"].items()))
    image, photo = next(iter(images.items()))
    twice = tar_of({f"day1/{image}": photo, f"day2/{image}": photo})
    if part == "validation":
        members = flat("val")
        write(root / VALIDATION, tar_of(members | {f"again/{next(iter(members))}": photo}))
        refused(root, "stands twice; allowed: each image once")
    elif part == "image":
        write(root / TRAIN, tar_of({f"{name}.tar": twice}))
        refused(root, f"{name}.tar/{image} stands twice; allowed: each image once")
    else:
        write(root / TRAIN, tar_of({f"{name}.tar": tar_of(images), f"more/{name}.tar": tar_of(images)}))
        refused(root, f"class {name} stands twice; allowed: each class once")


def test_archives_that_cannot_be_looked_at_are_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    assert imagenet.stat_digest({"path": str(tmp_path)}) is None
