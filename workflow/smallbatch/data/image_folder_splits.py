"""Identifies the splits and classes among the folders of a data set; an ambiguous layout is refused."""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.data.decoding import EXTENSIONS, kind_of_non_image
from smallbatch.data.folder_listing import count_files, describe_left_out, folded, folders, shown, some, text, walk
from smallbatch.data.non_class_folders import refuse_copy_folders, refuse_masks, refuse_parts

log = logging.getLogger(__name__)

ROLES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
ROLES |= {"val": "val", "valid": "val", "validation": "val"}
"""Name of a split's folder, in lower case -> the split."""

_TRAIN = re.compile(r"train(ing)?")
_HELD_OUT = re.compile(r"test(ing)?|val(id(ation)?)?|eval(uation)?|dev")
_PART = re.compile(rf"(?<![^\W_])({_TRAIN.pattern}|{_HELD_OUT.pattern})(?![^\W_])")
"""A split's name within a class's name, such as cat_test."""

Classes = dict[str, list[str]]
"""Class name -> its images, as paths below the root; both sorted."""


class Pictures(NamedTuple):
    """The pictures of a folder that has been read.

    root: the folder that their names are below.
    names: of the classes, or of outputs.
    files: split, `train` or `test` -> its pictures, as paths below the root.
    labels: split -> theirs, [n] int64, or targets [n, outputs] float32.
    """

    root: Path
    names: list[str]
    files: dict[str, list[str]]
    labels: dict[str, np.ndarray]


def classes_of_splits(path: Path, unpacked: Path, left_out: Counter[str]) -> tuple[Path, dict[str, Classes]]:
    """The root folder of all image names, and the classes of the splits `train` and `test`, or of `all`.

    Args:
        path: the folder or archive, for messages.
        unpacked: the folder, or the folder into which the archive is unpacked.
        left_out: counts of skipped files by kind, updated here.

    Raises:
        UserError: there are no classes, or the meaning of the folders is ambiguous.
        OSError: a folder cannot be read.
    """
    root = _descended(path, unpacked, unpacked)
    splits = split_folders(path, root, left_out)
    if splits is None:
        return root, {"all": _classes(path, root, root, left_out)}
    classes = {name: _classes(path, root, _descended(path, root, folder), left_out) for name, folder in splits.items()}
    (train, test), (first, second) = classes.values(), (folder.name for folder in splits.values())
    only = [(first, sorted(train.keys() - test.keys())), (second, sorted(test.keys() - train.keys()))]
    if train.keys() != test.keys():
        parts = [f"only in {name}/: {some(extra)}" for name, extra in only if extra]
        raise UserError(f"{path}: the splits have different classes; {'; '.join(parts)}")
    refuse_shared(path, root, *([name for images in split.values() for name in images] for split in (train, test)))
    return root, classes


def refuse_shared(path: Path, root: Path, train: Iterable[str], test: Iterable[str]) -> None:
    """Refuse splits that share a file through links: a test on training images is meaningless.

    Args:
        path: the folder or archive, for messages.
        root: the folder that the images' names are below.
        train: those of training images.
        test: those of test images.

    Raises:
        UserError: they share one.
    """
    known = {_identity(root / name): name for name in train}
    for name in test:
        if other := known.get(_identity(root / name)):
            both = f"{shown(name)} and {shown(other)} are one file, by a link"
            raise UserError(f"{path}: {both}; allowed: test images that are no training images")


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _descended(path: Path, root: Path, folder: Path) -> Path:
    """The only folder in `folder`, recursively, if that contains folders: a single class is no data set."""
    inner = folders(folder)
    if len(inner) != 1 or _role(inner[0]) not in (None, _role(folder)) or not folders(inner[0]):
        return folder
    log.info("%s: the classes are looked for in %s/", path, shown(inner[0].relative_to(root).as_posix()))
    return _descended(path, root, inner[0])


def _role(folder: Path) -> str | None:
    return ROLES.get(folded(text(folder.name)))


def split_folders(path: Path, root: Path, left_out: Counter[str]) -> dict[str, Path] | None:
    """The folders of the splits `train` and `test`; None if there are none of such names.

    Arguments and errors are as for `classes_of_splits`, and `root` is the folder that they are in.
    """
    inner = folders(root)
    roles = defaultdict(list)
    for folder in inner:
        roles[_role(folder)].append(folder)
    others = roles.pop(None, [])
    if not roles:
        _refuse_hidden_splits(path, inner)
        return None
    for several in roles.values():
        if len(several) > 1:
            raise UserError(f"{path}: doubtful: {_list(several)} are names of one split; keep one, or unite them")
    held_out = [roles[role][0] for role in ("test", "val") if role in roles]
    if "train" not in roles or not held_out:
        _refuse_half_a_split(path, [several[0] for several in roles.values()], others, "train" in roles)
    # A test split without labels, as in contests, cannot be used.
    test = next((folder for folder in held_out if folders(folder)), held_out[0])
    log.info("%s: the test split is %s/", path, shown(test.name))
    for folder in (*held_out, *others):
        if folder != test:
            left_out[f"files in {shown(folder.name)}/"] += count_files(folder)
    return {"train": roles["train"][0], "test": test}


def _list(several: Iterable[Path]) -> str:
    return some([f"{folder.name}/" for folder in several])


def _refuse_half_a_split(path: Path, splits: list[Path], others: list[Path], has_train: bool) -> None:
    missing = "test/ or val/" if has_train else "train/"
    beside = f"beside {_list(others)}" if others else "alone"
    other = "classes, which then need other names" if others else "all there is, and `path` should name it"
    raise UserError(f"{path}: doubtful: {_list(splits)} {beside}: either a split, and {missing} is missing; or {other}")


def _refuse_hidden_splits(path: Path, classes: list[Path]) -> None:
    """Refuse folders that may be splits with other names (seg_train and seg_test), or that contain splits."""
    names = {folded(text(folder.name)): folder for folder in classes}
    rests = [
        {pattern.sub("", name, count=1): folder for name, folder in names.items() if pattern.search(name)}
        for pattern in (_TRAIN, _HELD_OUT)
    ]
    for rest in rests[0].keys() & rests[1].keys():
        pair = _list(hidden[rest] for hidden in rests)
        raise UserError(
            f"{path}: doubtful: {pair}: either splits, then call them train/ and test/; or classes, then not so"
        )
    for name, folder in names.items():
        if (part := _PART.sub("", name, count=1).strip(" ._-")) != name and part in names:
            pair = _list([names[part], folder])
            both = "either splits, then they belong above the classes; or two classes, then rename one"
            raise UserError(f"{path}: doubtful: {pair}: {both}")
    for folder in classes:
        inner = {_role(inside) for inside in folders(folder)}
        if "train" in inner and inner & {"test", "val"}:
            both = "either splits, then they belong above the classes; or parts of a class, then call them otherwise"
            raise UserError(f"{path}: doubtful: {shown(folder.name)}/ holds train/ and test/ or val/: {both}")


def _classes(path: Path, root: Path, folder: Path, left_out: Counter[str]) -> Classes:
    """The class folders in `folder`, each with at least one image at any depth."""
    where = path / folder.relative_to(root)
    names = _class_names(where, folders(folder))
    images: dict[str, list[str]] = {name: [] for name in sorted(names.values())}
    no_images: Counter[str] = Counter()
    for file in walk(folder, no_images):
        top, _, rest = file.name.partition("/")
        refuse_copy_folders(where, file.name)
        if rest:
            kind = kind_of_non_image(folder / file.name)
        else:
            kind = f"{'pictures' if Path(top).suffix.lower() in EXTENSIONS else 'other files'} beside the class folders"
        if kind:
            no_images[kind] += 1
        else:
            images[names[top]].append(file.name)
    left_out.update(no_images)
    _check_classes(where, images, no_images)
    refuse_masks(where, images)
    refuse_parts(where, images)
    _report_subfolders(where, images)
    prefix = folder.relative_to(root)
    return {
        name: [(prefix / image).as_posix() for image in sorted(in_class, key=lambda image: (text(image), image))]
        for name, in_class in images.items()
    }


def _report_subfolders(where: Path, images: Classes) -> None:
    subfolders = Counter(
        "/".join(parts[:2]) for files in images.values() for file in files if len(parts := file.split("/")) > 2
    )
    if subfolders:
        counts = subfolders.total(), some([f"{name}/" for name in sorted(subfolders)])
        log.info("%s: pictures in subfolders of class folders, which belong to these classes: %d (%s)", where, *counts)


def _class_names(where: Path, class_folders: list[Path]) -> dict[str, str]:
    """Class names by their folders' names."""
    names: dict[str, str] = {}
    seen: dict[str, str] = {}
    for folder in class_folders:
        name = text(folder.name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raw = os.fsencode(folder.name)
            raise UserError(f"{where}: a class folder's name is not text in UTF-8: {raw!r}; rename it") from None
        other = seen.setdefault(folded(name), folder.name)
        if other != folder.name:
            one = f"class folders {other!a} and {folder.name!a} have one name but for capitals, accents or outer spaces"
            both = "either one class, then unite them; or two, then rename one"
            raise UserError(f"{where}: doubtful: {one}: {both}")
        names[folder.name] = name
    return names


def _check_classes(where: Path, images: Classes, no_images: Counter[str]) -> None:
    instead = describe_left_out(no_images)
    alternatives = f"; found: {instead}" if instead else ""
    if not any(images.values()):
        raise UserError(f"{where}: no class folders with images{alternatives}")
    empty = [name for name, inside in images.items() if not inside]
    if empty:
        raise UserError(f"{where}: class folders without images: {some(empty)}{alternatives}")
    if len(images) == 1:
        raise UserError(f"{where}: found one class folder, {some(list(images))}; expected two or more")
