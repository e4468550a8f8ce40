"""ImageNet (ILSVRC 2012) where it lies: the archives as they are given out, or unpacked class folders.

Nothing is downloaded or unpacked: an index says where each JPEG's bytes are, inside the uncompressed archives too.
Source: Russakovsky et al. 2015; https://www.image-net.org/challenges/LSVRC/2012/.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from smallbatch.data.archives import MEMBER_LIMIT, damage_told, folders, read_members, visible
from smallbatch.data.photos import ENTRY, SIZE, Photos
from smallbatch.data.prepared import Meta, Split, write_arrays
from smallbatch.environment import processors
from smallbatch.errors import UserError

TRAIN_TAR, VAL_TAR, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
CLASS_TABLE = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
ALLOWED = f"train/ with class folders or {TRAIN_TAR}, and val/ with class folders or {VAL_TAR} with {DEVKIT}"

ORIGINAL = {"classes": 1000, "training images": 1_281_167, "test images": 50_000}

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels over ImageNet, as torchvision has them."""


class Photo(NamedTuple):
    """One photo: its class, its name, and where its bytes are."""

    wnid: str
    name: str
    path: str
    offset: int
    size: int


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write an index of ImageNet into `folder`.

    Raises:
        UserError: the folder lacks something or is damaged, or is called imagenet and is only a part of it.
    """
    root = Path(settings["path"]).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; allowed: a folder that holds {ALLOWED}")
    train, test = sorted(_training(root)), sorted(_validation(root))
    classes = sorted({photo.wnid for photo in train})
    strangers = sorted({photo.wnid for photo in test} - set(classes))
    if strangers:
        raise UserError(f"{root}: class {strangers[0]} is in the validation photos and not in the training photos")
    found = dict(zip(ORIGINAL, (len(classes), len(train), len(test)), strict=True))
    if label == "imagenet" and found != ORIGINAL:
        told = ", ".join(f"{count:,} {what}" for what, count in found.items())
        raise UserError(f"{root}: holds {told}, which is not ImageNet; give it a `label` of its own")
    splits = [_split(root, photos, classes) for photos in (train, test)]
    meta = Meta(
        label=label,
        classes=tuple(classes),
        shape=(3, SIZE, SIZE),
        mean=MEAN,
        std=STD,
        train=len(train),
        test=len(test),
        fingerprint=_fingerprint(root.name, classes, splits),
        root=str(root),
    )
    write_arrays(folder, meta, [array for split in splits for array in (split.images.index, split.labels)])
    return meta


def _split(root: Path, photos: list[Photo], classes: list[str]) -> Split:
    index = np.array([(photo.path.encode(), photo.offset, photo.size) for photo in photos], ENTRY)
    places = {wnid: place for place, wnid in enumerate(classes)}
    return Split(Photos(root, index), np.array([places[photo.wnid] for photo in photos], np.int64))


def _training(root: Path) -> Iterator[Photo]:
    if (root / "train").is_dir():
        return _in_class_folders(root, root / "train")
    if (root / TRAIN_TAR).is_file():
        return _in_nested_tar(root / TRAIN_TAR)
    raise UserError(f"{root}: neither train/ nor {TRAIN_TAR}; allowed: a folder that holds {ALLOWED}")


def _validation(root: Path) -> Iterator[Photo]:
    if (root / "val").is_dir() and folders(root / "val"):
        return _in_class_folders(root, root / "val")
    if (root / "val").is_dir():
        return _named(root, ((file.name, f"val/{file.name}", 0, file.stat().st_size) for file in _files(root / "val")))
    if (root / VAL_TAR).is_file():
        return _named(root, ((name, VAL_TAR, offset, size) for name, offset, size in _in_tar(root / VAL_TAR)))
    raise UserError(f"{root}: neither val/ nor {VAL_TAR}; allowed: a folder that holds {ALLOWED}")


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if visible(file.name) and file.is_file()]


def _in_class_folders(root: Path, split: Path) -> Iterator[Photo]:
    for folder in folders(split):
        for file in _files(folder):
            yield Photo(folder.name, file.name, file.relative_to(root).as_posix(), 0, file.stat().st_size)


def _in_nested_tar(archive: Path) -> Iterator[Photo]:
    """The photos of a tar of one tar a class; where they lie in the outer one."""
    with damage_told(archive), tarfile.open(archive, "r:") as outer:
        for member in outer:
            if member.isreg():
                wnid = Path(member.name).stem
                with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                    for name, offset, size in _members(archive, inner, member.size):
                        yield Photo(wnid, name, archive.name, member.offset_data + offset, size)


def _in_tar(archive: Path) -> Iterator[tuple[str, int, int]]:
    with damage_told(archive), tarfile.open(archive, "r:") as tar:
        yield from _members(archive, tar, archive.stat().st_size)


def _members(archive: Path, tar: tarfile.TarFile, length: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the regular files of an uncompressed tar of this length."""
    for member in tar:
        if member.isreg():
            if member.size > MEMBER_LIMIT or member.offset_data + member.size > length:
                raise UserError(f"{archive}: {member.name} is larger than what is there; the archive is cut off")
            yield Path(member.name).name, member.offset_data, member.size


def _named(root: Path, photos: Iterable[tuple[str, str, int, int]]) -> Iterator[Photo]:
    """Give validation photos their classes: line i of the truth belongs to the i-th photo by name."""
    if not (root / DEVKIT).is_file():
        raise UserError(f"{root}: {DEVKIT} is missing, which says the classes of the validation photos")
    found = sorted(photos)
    members = read_members(root / DEVKIT, (CLASS_TABLE, TRUTH))
    table = loadmat(io.BytesIO(members[CLASS_TABLE]), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(table)}
    truth = [int(line) for line in members[TRUTH].split()]
    if len(truth) != len(found):
        raise UserError(f"{root}: {len(found):,} validation photos, and classes for {len(truth):,} in {DEVKIT}")
    for (name, path, offset, size), number in zip(found, truth, strict=True):
        yield Photo(wnids[number], name, path, offset, size)


def _fingerprint(title: str, classes: list[str], splits: list[Split]) -> str:
    """SHA-256 over class names, labels and every photo's bytes: the same for archives and unpacked folders."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    total = sum(len(split.images) for split in splits)
    with ThreadPoolExecutor(processors()) as pool, tqdm(desc=title, total=total, unit="photo", disable=None) as bar:
        for split in splits:
            digest.update(split.labels.tobytes())
            for content in pool.map(split.images.digest, range(len(split.images))):
                digest.update(content)
                bar.update()
    return digest.hexdigest()
