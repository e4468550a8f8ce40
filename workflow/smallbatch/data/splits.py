"""What is done with the splits of any data of the user's own: divided by a seed, and looked at for doubtful images."""

import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from smallbatch.core.errors import UserError, refuse
from smallbatch.data.folder_listing import shown
from smallbatch.data.prepared import Split

log = logging.getLogger(__name__)

T = TypeVar("T")


def split_by_seed(
    path: Path, classes: Mapping[str, Sequence[T]], settings: Mapping[str, Any]
) -> dict[str, dict[str, list[T]]]:
    """Move a fraction of each class into the test split; the choice does not depend on the other classes.

    Args:
        path: where the data lie, for messages.
        classes: class name -> its images.
        settings: the data set's, with `test_fraction`, and `split_seed` unless it is 0.

    Returns:
        Split, `train` or `test` -> class name -> its images, in the given order.

    Raises:
        UserError: a class would have no image in a split.
    """
    fraction, seed = settings["test_fraction"], settings.get("split_seed", 0)
    train, test = {}, {}
    for name, images in classes.items():
        count = round(len(images) * fraction)
        if not 0 < count < len(images):
            less = "test" if count == 0 else "training"
            raise UserError(
                f"{path}: test_fraction: {fraction} leaves class {shown(name)} ({len(images)} images) no {less} image"
            )
        order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(images))
        test[name] = [images[number] for number in sorted(order[:count])]
        train[name] = [images[number] for number in sorted(order[count:])]
    return {"train": train, "test": test}


def split_indices(
    path: Path, name: str, labels: Mapping[str, np.ndarray], classes: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, tuple[str, np.ndarray]]:
    """The images of the training and of the test split.

    Args:
        path: where the data lie, for messages.
        name: what the labels are called there.
        labels: of the splits `train` and `test`, or of `all`, which `test_fraction` divides, [n] int64; or targets
            [n, outputs], of which it takes its part without regard to values.
        classes: names of the classes of the training images, or of outputs.
        settings: the data set's.

    Returns:
        Split, `train` or `test` -> the given one that it is of, and the rows of that, [n] int64.

    Raises:
        UserError: `test_fraction` is missing or not applicable, or a test label is no class of the training images.
    """
    if "all" not in labels:
        if "test_fraction" in settings:
            refuse(path, "test_fraction", settings["test_fraction"], f"none, since there are {' and '.join(labels)}")
        if labels["test"].ndim == 1 and labels["test"].max() >= len(classes):
            allowed = f"labels from 0 to {len(classes) - 1}, the classes of the training images"
            raise UserError(f"{path}: {name} (test): has {labels['test'].max()}; allowed: {allowed}")
        return {split: (split, np.arange(len(of))) for split, of in labels.items()}
    if "test_fraction" not in settings:
        refuse(path, "test_fraction", None, "a number between 0 and 1, since there is no split for testing")
    whole = labels["all"]
    if whole.ndim == 2:
        places = {"all": list(range(len(whole)))}
    else:
        places = {of: np.flatnonzero(whole == number).tolist() for number, of in enumerate(classes)}
    divided = split_by_seed(path, places, settings)
    return {split: ("all", np.sort(np.concatenate([*chosen.values()]))) for split, chosen in divided.items()}


def log_duplicates_and_class_sizes(
    path: Path, classes: Sequence[str], train: Split[np.ndarray], test: Split[np.ndarray]
) -> None:
    """Log the sizes of classes; warn of test images that are training images, and of images in several classes.

    Targets of outputs in place of classes are logged by their means.

    Args:
        path: where the data lie.
        classes: their names, or those of outputs.
        train: training split, as prepared.
        test: test split, as prepared.
    """
    digests, tested = (_digests(split.images) for split in (train, test))
    known = set(digests)
    if seen_in_training := sum(image in known for image in tested):
        counts = seen_in_training, len(tested)
        log.warning("%s: %d of %d test images are training images, too, to the last pixel", path, *counts)
    if train.labels.ndim == 2:
        log.info("%s: outputs: %s", path, _means(classes, train.labels, test.labels))
        return
    if contradictory := _count_of_several_classes(digests, train.labels):
        counts = contradictory, len(digests)
        log.warning("%s: %d of %d training images are in another class, too, to the last pixel", path, *counts)
    log.info("%s: classes: %s", path, _class_sizes(classes, train.labels, test.labels))


def _means(names: Sequence[str], train: np.ndarray, test: np.ndarray, most: int = 12) -> str:
    """`0 1.52 and 1.49, 1 0.3 and 0.31`: the mean of each output in the training and the test split."""
    means = zip(names, *(labels.mean(axis=0, dtype=np.float64) for labels in (train, test)), strict=True)
    parts = [f"{shown(name)} {in_train:.4g} and {in_test:.4g}" for name, in_train, in_test in means]
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + f"{more} (means of training + test targets)"


def _digests(images: np.ndarray) -> list[bytes]:
    """The digest of each image at its prepared size."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def _count_of_several_classes(digests: Sequence[bytes], labels: np.ndarray) -> int:
    """The number of images that, by their digests, have the same pixels as another image with another label."""
    classes: dict[bytes, set[int]] = {}
    for image, label in zip(digests, labels.tolist(), strict=True):
        classes.setdefault(image, set()).add(label)
    return sum(len(classes[image]) > 1 for image in digests)


def _class_sizes(names: Sequence[str], train: np.ndarray, test: np.ndarray, most: int = 12) -> str:
    """`cat 52 + 13, dog 40 + 10`: the numbers of images of each class in the training and the test split."""
    counts = zip(names, *(np.bincount(labels, minlength=len(names)) for labels in (train, test)), strict=True)
    parts = [f"{shown(name)} {in_train} + {in_test}" for name, in_train, in_test in counts]
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + f"{more} (training + test images)"
