"""Checks arrays of the user's own, from whatever source, and makes them into splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallbatch.core.errors import UserError
from smallbatch.data.folder_listing import shown
from smallbatch.data.prepared import CHUNK_VALUES, Meta, Split, first_nonbinary_target, kind_of_targets, write
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.data.splits import log_duplicates_and_class_sizes, split_by_seed

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
        labels = self.train.labels, self.test.labels
        targets = kind_of_targets(*labels), first_nonbinary_target(self.classes, *labels)
        return DatasetInfo(images.shape[1:], *counts, images.itemsize, *targets)


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
        Split(_images(where, images, settings.get("channels")), labels_or_targets(where, labels, images))
        for images, labels in named
    ]
    first, last = named[0][0], named[-1][0]
    if parts[0].images.shape[1:] != parts[-1].images.shape[1:] or parts[0].images.dtype != parts[-1].images.dtype:
        raise UserError(
            f"{where}: {last.name}: {_form(last.array)}, and {first.name}: {_form(first.array)}; "
            "allowed: both of one type and, but for their number, of one shape"
        )
    if parts[0].labels.ndim == 2 or parts[-1].labels.ndim == 2:
        return _of_targets(where, [labels for _, labels in named], parts, settings)
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
    log_duplicates_and_class_sizes(where, own.classes, own.train, own.test)
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
    if array.dtype == np.uint8:
        return ordered
    single = finite_single(where, name, ordered)
    if array.ndim == 2:
        _check_resolved(where, name, array, single.reshape(array.shape))
    return single


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


def finite_single(where: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Numbers in single precision, in this machine's order of bytes.

    Args:
        where: file or folder of the array, for messages.
        name: what it is called there.
        array: [n, ...].

    Raises:
        UserError: one is not finite.
    """
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


def labels_or_targets(where: Path, given: Named, images: Named) -> np.ndarray:
    """Labels [n] int64; or targets [n, outputs] float32, where they are floats, booleans or several for each image.

    The arguments are as for `labels_of`.

    Raises:
        UserError: they are neither, or not as many as the images.
    """
    name, array = given
    several = array.ndim == 2 and array.shape[1] > 1
    if array.dtype.kind not in "fb" and not (several and array.dtype.kind in "iu"):
        return labels_of(where, given, images)
    if array.ndim not in (1, 2) or not array.size or array.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise UserError(f"{where}: {name}: {_form(array)}; allowed: [n] or [n, outputs] numbers, or [n] classes")
    _check_count(where, given, images)
    targets = array.reshape(len(array), -1)
    single = finite_single(where, name, targets)
    _check_resolved(where, name, targets, single)
    return single


RESOLVED, NOISE = 0.01, 1e-12
"""The part of a column's standard deviation that rounding may change; the part of its largest value up to which a
standard deviation is that of double precision."""


def _check_resolved(where: Path, name: str, given: np.ndarray, single: np.ndarray) -> None:
    """Check that what varies in columns is left in single precision, as the seconds of dates since 1970 are not."""
    if np.can_cast(given.dtype, single.dtype):
        return
    numbers = given.astype(np.float64, copy=False)
    rounding, deviation = np.abs(numbers - single).max(axis=0), numbers.std(axis=0)
    lost = (rounding > RESOLVED * deviation) & (deviation > NOISE * np.abs(numbers).max(axis=0))
    for column in np.flatnonzero(lost)[:1]:
        said = f"floats of 32 bits change column {column} by up to {rounding[column]:.3g}, and it varies by"
        allowed = "numbers that they tell apart, such as differences from the mean"
        raise UserError(f"{where}: {name}: {said} {deviation[column]:.3g}; allowed: {allowed}")


def _check_count(where: Path, labels: Named, images: Named) -> None:
    if len(labels.array) != len(images.array):
        both = f"{len(labels.array)} labels of {len(images.array)} {images.name}"
        raise UserError(f"{where}: {labels.name}: {both}; allowed: one for each")


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
    _check_count(where, given, images)
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


def _of_targets(
    where: Path, labels: Sequence[Named], parts: Sequence[Split[np.ndarray]], settings: Mapping[str, Any]
) -> Own:
    """The splits, where labels are targets [n, outputs]."""
    check_alike(where, labels, [part.labels for part in parts])
    train, test = parts if len(parts) == 2 else _split(where, parts[0], {"all": range(len(parts[0].labels))}, settings)
    outputs = tuple(map(str, range(train.labels.shape[1])))
    check_numbers_vary(where, (labels[0].name, labels[-1].name), outputs, (train.labels, test.labels))
    return Own(train, test, outputs)


def check_alike(where: Path, given: Sequence[Named], labels: Sequence[np.ndarray]) -> None:
    """Check that the labels of all splits are classes, or targets of as many outputs.

    Args:
        where: file or folder of the labels, for messages.
        given: of each split as they are there.
        labels: the same, checked, [n] or [n, outputs].

    Raises:
        UserError: they are not.
    """
    if len({of.shape[1:] for of in labels}) > 1:
        forms = ", and ".join(f"{one.name}: {_form(one.array)}" for one in given)
        raise UserError(f"{where}: {forms}; allowed: both classes, or as many targets of each image")


def check_numbers_vary(
    where: Path, names: Sequence[str], outputs: Sequence[str], targets: Sequence[np.ndarray]
) -> None:
    """Check that targets that are numbers vary, since R² is not known of those that do not.

    Args:
        where: file or folder of the targets, for messages.
        names: what those of each split are called there.
        outputs: names of outputs.
        targets: of each split, [n, outputs].

    Raises:
        UserError: an output is the same for all images of a split.
    """
    if kind_of_targets(*targets) == "binary":
        return
    for name, split in zip(names, targets, strict=True):
        if (constant := np.flatnonzero(np.ptp(split, axis=0) == 0)).size:
            said = f"output {shown(outputs[constant[0]])} is always {split[0, constant[0]]:g}"
            raise UserError(f"{where}: {name}: {said}; allowed: one that varies")


def _divided(where: Path, whole: Split[np.ndarray], classes: int, settings: Mapping[str, Any]) -> Own:
    names = tuple(map(str, range(classes)))
    places = {name: np.flatnonzero(whole.labels == number).tolist() for number, name in enumerate(names)}
    train, test = _split(where, whole, places, settings)
    return Own(train, test, names)


def _split(
    where: Path, whole: Split[np.ndarray], places: Mapping[str, Sequence[int]], settings: Mapping[str, Any]
) -> list[Split[np.ndarray]]:
    """The training and the test split, of which each has its fraction of each class's places."""
    chosen = [np.sort(np.concatenate([*split.values()])) for split in split_by_seed(where, places, settings).values()]
    return [Split(whole.images[of], whole.labels[of]) for of in chosen]
