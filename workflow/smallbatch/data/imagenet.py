"""ImageNet (ILSVRC 2012), or a subset in the same format: photos of 1000 classes, read from their original files.

Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015; https://www.image-net.org/,
which gives the archives to researchers who sign for them. Nothing is downloaded or unpacked: training images are
members of a tar in a tar, none of them compressed, so each is a contiguous part of the outer file.
"""

import hashlib
import io
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from smallbatch.core.environment import processors
from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import check_folder_writable
from smallbatch.data.archives import damage_reported, read_members
from smallbatch.data.decoding import BrokenImage
from smallbatch.data.folder_listing import File, describe_left_out, folders, shown, text, tree_digest, visible
from smallbatch.data.photos import CHUNK, MEAN, SHAPE, STD, Photos, decoded
from smallbatch.data.prepared import Meta, Split, fingerprint, index_type, save
from smallbatch.data.public_datasets import PUBLIC_DATASETS

log = logging.getLogger(__name__)

TRAIN, VALIDATION, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
VALIDATION_LABELS = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_devkit_t12/data/meta.mat"
ALLOWED = f"{TRAIN} or train/ with class folders; val/ with class folders, or {VALIDATION} or a flat val/ with {DEVKIT}"

ORIGINAL = dict(zip(("classes", "training images", "validation images"), PUBLIC_DATASETS["imagenet"][1:4], strict=True))
EXTENSIONS = (".jpeg", ".jpg")
PHOTO_LIMIT = 1 << 26  # bytes; ImageNet's largest has 16 MB


class ImageLocation(NamedTuple):
    """Location of an image: file below the root, member name if the file is an archive, offset and size in bytes."""

    file: str
    name: str
    offset: int
    size: int


Images = dict[str, ImageLocation]
"""Images by their own names, without folders."""


def prepare(label: str, settings: dict[str, Any], folder: Path, original: bool) -> Meta:
    """Write an index of the photos; each is read and decoded once.

    Args:
        label: the name shown in figures and run folders.
        settings: settings of the data set.
        folder: folder of the prepared data.
        original: whether the data must have ImageNet's numbers of classes and images.

    Raises:
        UserError: files are missing or broken, or the data are not the original.
    """
    check_folder_writable(folder.parent)
    check_layout(settings)
    root, seen = _root(settings), stat_digest(settings)
    left_out: Counter[str] = Counter()
    try:
        train, test = _training_classes(root, left_out), _validation_classes(root, left_out)
    except OSError as error:
        raise UserError(f"{root}: {error.filename} cannot be read ({error.strerror})") from error
    if left_out.total():
        log.warning("%s: left out: %s", root, describe_left_out(left_out))
    classes = _check_classes(root, train, test)
    splits = {"train": _split(root, classes, train), "val": _split(root, classes, test)}
    if original:
        _check_original(root, label, len(classes), *(len(split.labels) for split in splits.values()))
    # The fingerprint uses the bytes of each photo, so that it is the same for archives and unpacked folders.
    digests = [Split(_fill_index(split.images, name), split.labels) for name, split in splits.items()]
    meta = Meta(
        label=label,
        classes=classes,
        shape=SHAPE,
        mean=MEAN,
        std=STD,
        train=len(splits["train"].labels),
        test=len(splits["val"].labels),
        fingerprint=fingerprint(classes, *digests),
        photos=str(root),
        settings=settings,
        watched=seen,
    )
    return save(folder, meta, *(Split(split.images.index, split.labels) for split in splits.values()))


def check_layout(settings: dict[str, Any]) -> None:
    """Make sure that there are training images, validation images and labels for the latter.

    Raises:
        UserError: one of these is missing.
    """
    root = _root(settings)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; allowed: a folder with {ALLOWED}")
    if not ((root / TRAIN).is_file() or (root / "train").is_dir()):
        raise UserError(f"{root}: no training images; allowed: {TRAIN}, or train/ with class folders")
    if not ((root / VALIDATION).is_file() or (root / "val").is_dir()):
        raise UserError(f"{root}: no validation images; allowed: {VALIDATION}, or val/, flat or with class folders")
    if not (_has_class_folders(root) or (root / DEVKIT).is_file()):
        raise UserError(f"{root}: no labels of the validation images; allowed: {DEVKIT}, or val/ with class folders")


def stat_digest(settings: dict[str, Any]) -> str | None:
    """A digest of the archives by name, size and time; None if there are none.

    Photos in folders are not watched: examining a million files takes minutes. Photos used in training are compared
    with their SHA-256 as they are read; photos that were added are not noticed until the data set is prepared again.
    """
    try:
        root = _root(settings)
        archives = [root / name for name in (TRAIN, VALIDATION, DEVKIT) if (root / name).is_file()]
        return tree_digest(File(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in archives)
    except (UserError, OSError):
        return None


def _root(settings: dict[str, Any]) -> Path:
    try:
        return Path(settings["path"]).expanduser()
    except RuntimeError as error:  # the user has no home folder
        raise UserError(f"{settings['path']}: cannot be read ({error})") from error


def _has_class_folders(root: Path) -> bool:
    """Whether the validation images lie in class folders."""
    return not (root / VALIDATION).is_file() and bool(folders(root / "val"))


def _training_classes(root: Path, left_out: Counter[str]) -> dict[str, Images]:
    if (root / TRAIN).is_file():
        return _classes_in_tar(root / TRAIN, left_out)
    return _classes_in_folder(root, root / "train", left_out)


def _validation_classes(root: Path, left_out: Counter[str]) -> dict[str, Images]:
    if _has_class_folders(root):
        return _classes_in_folder(root, root / "val", left_out)
    if not (root / VALIDATION).is_file():
        return _by_class(root, _images_in_folder(root, root / "val", left_out))
    with damage_reported(root / VALIDATION), open(root / VALIDATION, "rb") as file:
        images = _unique_by_name(_images_in_tar(file, root / VALIDATION, left_out), root / VALIDATION)
    return _by_class(root, images)


def _classes_in_tar(archive: Path, left_out: Counter[str]) -> dict[str, Images]:
    """The images of a tar of tars, one per class."""
    classes: dict[str, Images] = {}
    with (
        damage_reported(archive),
        open(archive, "rb") as file,
        tqdm(desc=archive.name, unit="class", disable=None) as bar,
    ):
        for tar, member in _members(file, archive.name):
            path = PurePosixPath(member.name)
            if visible(path.name) and path.suffix == ".tar" and (inner := tar.extractfile(member)):
                if path.stem in classes:
                    raise UserError(f"{archive}: class {path.stem} stands twice; allowed: each class once")
                images = _images_in_tar(inner, archive, left_out, member.offset_data, f"{path.name}/")
                classes[path.stem] = _unique_by_name(images, archive)
                bar.update()
    return classes


def _unique_by_name(images: Iterable[tuple[str, ImageLocation]], archive: Path) -> Images:
    """Images by name; refuses two images with the same name, of which the first would be lost."""
    named: Images = {}
    for name, piece in images:
        if name in named:
            raise UserError(f"{archive}: {piece.name} stands twice; allowed: each image once, whatever its folder")
        named[name] = piece
    return named


def _images_in_tar(
    file: IO[bytes], archive: Path, left_out: Counter[str], start: int = 0, prefix: str = ""
) -> Iterator[tuple[str, ImageLocation]]:
    """The images of a tar that begins at byte `start` of the archive."""
    for _, member in _members(file, prefix.rstrip("/") or archive.name):
        name = PurePosixPath(member.name).name
        if _is_image(name, left_out):
            _check_size(f"{archive}: {prefix}{name}", member.size)
            yield name, ImageLocation(archive.name, prefix + name, start + member.offset_data, member.size)


def _members(file: IO[bytes], name: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of an uncompressed tar; without an end mark it was cut short, which raises an error."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        end = 0
        for member in tar:
            end = tar.offset
            if member.isreg() and not member.issparse():
                yield tar, member
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"{name} was cut short")


def _classes_in_folder(root: Path, folder: Path, left_out: Counter[str]) -> dict[str, Images]:
    classes = {}
    for entry in folders(folder):
        name = text(entry.name)
        if not name.isprintable():
            raise UserError(f"{shown(folder)}: a class folder's name is no plain text: {entry.name!a}; rename it")
        classes[name] = _images_in_folder(root, entry, left_out)
    return classes


def _images_in_folder(root: Path, folder: Path, left_out: Counter[str]) -> Images:
    """The images in a folder, each in a file of its own."""
    images = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file():
                left_out["folders in class folders"] += entry.is_dir() and visible(entry.name)
            elif _is_image(entry.name, left_out):
                _check_size(entry.path, entry.stat().st_size)
                file = Path(entry.path).relative_to(root).as_posix()
                images[entry.name] = ImageLocation(file, "", 0, entry.stat().st_size)
    return images


def _is_image(name: str, left_out: Counter[str]) -> bool:
    """Whether a file is an image, by its name as in all of ImageNet; other visible files are counted by kind."""
    if not visible(name):
        return False
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in EXTENSIONS:
        left_out[f"{suffix} files" if suffix.isprintable() and len(suffix) > 1 else "files of no known kind"] += 1
    return suffix in EXTENSIONS


def _check_size(where: str, size: int) -> None:
    if size > PHOTO_LIMIT:
        raise UserError(f"{where} has {size} bytes, allowed are {PHOTO_LIMIT}")


def _by_class(root: Path, images: Images) -> dict[str, Images]:
    """Validation images by class, from the development kit: the number in an image's name is a line number there."""
    truth, wnids = _devkit(root / DEVKIT)
    labelled: dict[str, Images] = {}
    for name, piece in images.items():
        number = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.\w+", name)
        if not number or not 1 <= int(number[1]) <= len(truth):
            raise UserError(f"{root / piece.file}: {name}: allowed: names ILSVRC2012_val_NUMBER, up to {len(truth)}")
        labelled.setdefault(wnids[truth[int(number[1]) - 1]], {})[name] = piece
    return labelled


def _devkit(archive: Path) -> tuple[list[int], dict[int, str]]:
    """The class number of each validation image, and the name of each class number."""
    from scipy.io import loadmat

    members = read_members(archive, (VALIDATION_LABELS, SYNSETS))
    try:
        truth = [int(line) for line in members[VALIDATION_LABELS].split()]
        synsets = loadmat(io.BytesIO(members[SYNSETS]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # the reader's exceptions for damaged .mat files have no common base class
        raise UserError(
            f"{archive}: {VALIDATION_LABELS} or {SYNSETS} is damaged ({' '.join(str(error).split())})"
        ) from error
    unknown = sorted(set(truth) - wnids.keys())
    if unknown:
        raise UserError(f"{archive}: {VALIDATION_LABELS} has class {unknown[0]}, which {SYNSETS} lacks")
    return truth, wnids


def _check_classes(root: Path, train: dict[str, Images], test: dict[str, Images]) -> tuple[str, ...]:
    """The sorted names of the classes; checks that both splits have images of each."""
    for kind, split in (("training", train), ("validation", test)):
        empty = sorted(name for name, images in split.items() if not images)
        if empty:
            raise UserError(f"{root}: class {empty[0]} has no {kind} images; known are {' '.join(EXTENSIONS)}")
    only = sorted(train.keys() ^ test.keys())
    if only:
        has, lacks = ("training", "validation") if only[0] in train else ("validation", "training")
        raise UserError(f"{root}: class {only[0]} has {has} images but no {lacks} images")
    if len(train) < 2:
        raise UserError(f"{root}: found {len(train)} classes; allowed: two or more")
    return tuple(sorted(train))


def _check_original(root: Path, label: str, *counts: int) -> None:
    for (what, expected), count in zip(ORIGINAL.items(), counts, strict=True):
        if count != expected:
            allowed = f"a name of its own, since there are {count} {what}, and ImageNet has {expected}"
            refuse(root, "label", label, allowed)


def _split(root: Path, classes: tuple[str, ...], images: dict[str, Images]) -> Split[Photos]:
    """Photos sorted by class and name; their heights and widths are not known yet."""
    pieces = [images[label][name] for label in classes for name in sorted(images[label])]
    labels = np.repeat(np.arange(len(classes)), [len(images[label]) for label in classes]).astype(np.int64)
    files, names = [os.fsencode(p.file) for p in pieces], [os.fsencode(p.name) for p in pieces]
    named = zip(files, names, pieces, strict=True)
    rows = [(file, name, p.offset, p.size, 0, 0, bytes(32)) for file, name, p in named]
    return Split(Photos(root, np.array(rows, index_type(max(map(len, files)), max(map(len, names))))), labels)


def _fill_index(photos: Photos, name: str) -> np.ndarray:
    """Decode each photo, store its height, width and SHA-256 in the index, and return the SHA-256s, [n, 32] uint8.

    It is better to find a broken photo here than hours into a training.
    """

    def examine(start: int) -> int:
        numbers = range(start, min(start + CHUNK, len(photos)))
        for number in numbers:
            data = photos.read_unchecked(number)
            try:
                height, width = decoded(data).shape[1:]
            except BrokenImage as error:
                raise UserError(f"{photos.where(number)}: is a broken image ({error})") from error
            photos.index[["height", "width", "sha256"]][number] = height, width, hashlib.sha256(data).digest()
        return len(numbers)

    Image.init()  # loads the formats, which threads must not do at the same time
    with (
        ThreadPoolExecutor(processors()) as pool,
        tqdm(desc=f"{photos.root.name} {name}", total=len(photos), unit="image", disable=None) as bar,
    ):
        try:
            for done in pool.map(examine, range(0, len(photos), CHUNK)):
                bar.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return np.ascontiguousarray(photos.index["sha256"]).view(np.uint8).reshape(-1, 32)
