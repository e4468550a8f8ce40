"""Checks arrays of the user's own, from whatever source, and makes them into splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.data.originals import DatasetInfo
from smallbatch.data.prepared import CHUNK_VALUES, Meta, Split, write
from smallbatch.data.splits import log_classes_and_repetitions, split_by_seed

SPLIT = ("train_images", "train_labels", "test_images", "test_labels")
WHOLE = ("images", "labels")
"""What arrays are, where the source has two splits, and where `test_fraction` makes them."""

USUAL_CHANNELS = (1, 3, 4)
"""Numbers of channels by which it is seen whether they come before or after height and width."""


class Own(NamedTuple):
    """A data set of the user's own, as it will be prepared; a class's name is its number unless the source names it."""

    train: Split[np.ndarray]
    test: Split[np.ndarray]
    classes: tuple[str, ...]

    @property
    def size(self) -> DatasetInfo:
        """Its size."""
        images = self.train.images
        counts = len(self.classes), len(images), len(self.test.images)
        return DatasetInfo(images.shape[1:], *counts, images.itemsize)


class Named(NamedTuple):
    """An array, and what its source calls it."""

    name: str
    array: np.ndarray


def checked(where: Path, given: Mapping[str, Named], settings: Mapping[str, Any]) -> Own:
    """The splits that arrays make.

    Args:
        where: file or folder of the arrays, for messages.
        given: `SPLIT`, or `WHOLE` where the settings have `test_fraction`, -> the array.
        settings: the data set's, with `channels`, `test_fraction` and `split_seed` where they are set.

    Raises:
        UserError: an array is not as it has to be; names it and what is allowed.
    """
    splits = [WHOLE] if WHOLE[0] in given else [SPLIT[:2], SPLIT[2:]]
    named = [(given[images], given[labels]) for images, labels in splits]
    parts = [
        Split(_images(where, images, settings.get("channels")), labels_of(where, labels, images))
        for images, labels in named
    ]
    first, last = named[0][0], named[-1][0]
    if parts[0].images.shape[1:] != parts[-1].images.shape[1:] or parts[0].images.dtype != parts[-1].images.dtype:
        raise UserError(
            f"{where}: {last.name}: {_form(last.array)}, and {first.name}: {_form(first.array)}; "
            "allowed: both of one type and, but for their number, of one shape"
        )
    classes = class_count(where, named[0][1].name, parts[0].labels)
    if len(parts) == 1:
        return _divided(where, parts[0], classes, settings)
    if parts[1].labels.max() >= classes:
        raise UserError(
            f"{where}: {named[1][1].name}: has {parts[1].labels.max()}; allowed: labels from 0 to {classes - 1}, the "
            "classes of the training images"
        )
    return Own(parts[0], parts[1], tuple(map(str, range(classes))))


def write_own(
    label: str, settings: Mapping[str, Any], folder: Path, where: Path, own: Own, watched: str | None
) -> Meta:
    """Write checked arrays as prepared ones into `folder`, and log the sizes of their classes.

    Args:
        label: the name shown in figures and run folders.
        settings: the data set's, in the configuration.
        folder: where to write.
        where: file or folder of the arrays, for messages.
        own: the arrays.
        watched: as in `Meta`.
    """
    log_classes_and_repetitions(where, own.classes, own.train, own.test)
    return write(folder, label, own.classes, own.train, own.test, settings=settings, watched=watched)


def _form(array: np.ndarray) -> str:
    """`uint8 [100, 28, 28]`."""
    return f"{array.dtype} {list(array.shape)}"


def _images(where: Path, given: Named, channels: str | None) -> np.ndarray:
    """Images [n, c, h, w] uint8 or float32."""
    name, array = given
    if array.dtype != np.uint8 and not (array.dtype.kind == "f" and array.itemsize <= 8):
        raise UserError(f"{where}: {name}: {_form(array)}; allowed: uint8, or floats of 16, 32 or 64 bits")
    if array.ndim not in (2, 3, 4):
        allowed = "[n, c, h, w], [n, h, w, c] or [n, h, w] of images, or [n, features]"
        raise UserError(f"{where}: {name}: {_form(array)}; allowed: {allowed}")
    if not array.size:
        raise UserError(f"{where}: {name}: {_form(array)}; allowed: an array with numbers in it")
    if channels and array.ndim != 4:
        raise UserError(f"{where}: channels: {channels!r} with {name} {list(array.shape)}; allowed: none there")
    if array.ndim < 4:
        ordered = array[:, None] if array.ndim == 3 else array[:, :, None, None]
    else:
        ordered = array if _channels_are_first(where, given, channels) else array.transpose(0, 3, 1, 2)
    return ordered if array.dtype == np.uint8 else _single(where, name, ordered)


def _channels_are_first(where: Path, given: Named, channels: str | None) -> bool:
    if channels:
        return channels == "first"
    first, last = (given.array.shape[axis] in USUAL_CHANNELS for axis in (1, 3))
    if first == last:
        both = "either [n, c, h, w] or [n, h, w, c]"
        raise UserError(
            f"{where}: channels: None is not allowed; allowed: first or last, since {given.name} "
            f"{list(given.array.shape)} is {both}"
        )
    return first


def _single(where: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The floats in single precision, in this machine's order of bytes; each is finite."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    chunk = max(1, CHUNK_VALUES // single[0].size)
    for start in range(0, len(single), chunk):
        finite = np.isfinite(single[start : start + chunk])
        if not finite.all():
            at = np.argwhere(~finite)[0]
            number = int(at[0]) + start
            value = array[(number, *at[1:])]
            raise UserError(f"{where}: {name}: has {value} in its row {number}; allowed: finite floats of 32 bits")
    return single


def labels_of(where: Path, given: Named, images: Named) -> np.ndarray:
    """Labels [n] int64, none below 0.

    Args:
        where: file or folder of the arrays, for messages.
        given: the labels.
        images: what they are of.

    Raises:
        UserError: they are no integers [n] from 0, or not as many as the images.
    """
    name, array = given
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{where}: {name}: {_form(given.array)}; allowed: [n] integers, the classes of {images.name}")
    if len(array) != len(images.array):
        both = f"{len(array)} labels of {len(images.array)} {images.name}"
        raise UserError(f"{where}: {name}: {both}; allowed: one for each")
    if len(array) and array.min() < 0:
        raise UserError(f"{where}: {name}: has {array.min()}; allowed: whole numbers from 0")
    if len(array) and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{where}: {name}: has {array.max()}; allowed: numbers of classes")
    return array.astype(np.int64)


def class_count(where: Path, name: str, labels: np.ndarray) -> int:
    """The number of classes, each of which has a label; the arguments are as for `labels_of`.

    Raises:
        UserError: labels are not 0, 1, 2, ...
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(f"{where}: {name}: {present[0]} alone; allowed: two classes or more")
    if present[-1] != len(present) - 1:
        wanted = np.arange(len(present))
        lacking = wanted[~np.isin(wanted, present)]
        raise UserError(
            f"{where}: {name}: {len(present)} classes up to {present[-1]}, and no {lacking[0]}; "
            f"allowed: each of 0 to {len(present) - 1}, if these are {len(present)} classes"
        )
    return len(present)


def _divided(where: Path, whole: Split[np.ndarray], classes: int, settings: Mapping[str, Any]) -> Own:
    names = tuple(map(str, range(classes)))
    places = {name: np.flatnonzero(whole.labels == number).tolist() for number, name in enumerate(names)}
    chosen = [np.sort(np.concatenate([*split.values()])) for split in split_by_seed(where, places, settings).values()]
    train, test = (Split(whole.images[of], whole.labels[of]) for of in chosen)
    return Own(train, test, names)
