"""Prepares any folder or archive of class folders as square images of one size.

The folder has either `train/` and `test/` (or `val/`) with class folders in each, or class folders, which are split
here by a seed; or tables of labels in place of class folders (`metadata_csv`). Images are recognised by content.
Ambiguous layouts are refused, and skipped files are counted in the log. The shorter side is resized to the wanted size,
bilinear with antialiasing, and the centre square is kept.
"""

import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from smallbatch.core.environment import processors
from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import check_folder_writable, writing_errors
from smallbatch.data.archives import as_folder
from smallbatch.data.decoding import DEEP, BrokenImage, Picture, collecting_pillow_warnings, decoded
from smallbatch.data.folder_listing import describe_left_out, shown, stat_digest
from smallbatch.data.image_folder_splits import Classes, Pictures, classes_of_splits
from smallbatch.data.prepared import Meta, Split, first_nonbinary_target, kind_of_targets, write
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.data.splits import log_duplicates_and_class_sizes, split_by_seed

log = logging.getLogger(__name__)

CHANNELS = {"RGB": 3, "L": 1}
MAX_14_BIT_VALUE = (1 << 14) - 1  # cameras, scanners and microscopes have 10, 12 or 14 bits and use the full range
CHUNK = 32  # images per task: enough to hide its overhead, few enough for a smooth progress bar


class Loaded(NamedTuple):
    """The images of one split.

    split: the arrays.
    largest: the largest value in files of 16 bits that do not state which value is white; None without such files.
    remarks: further remarks for the user: kind -> number of images.
    """

    split: Split[np.ndarray]
    largest: int | None
    remarks: Counter[str]


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the images of a folder or an archive as prepared arrays.

    This temporarily needs disk space beside `folder` for the unpacked archive and for a second copy of the arrays.

    Raises:
        UserError: the path, a class or an image is missing or broken, or the settings do not match the files.
    """
    check_folder_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        return _prepare(label, settings, folder, Path(scratch))


def size(settings: dict[str, Any]) -> DatasetInfo | None:
    """Make sure that all but decoding the images of a folder succeeds, and return its size.

    None of an archive, which is checked when it is unpacked.

    Raises:
        UserError: splits or labels are ambiguous or not as they have to be, or `test_fraction` is missing or not
            applicable.
    """
    path = Path(settings["path"]).expanduser()
    if not path.is_dir():
        return None
    pictures = _read(path, path, settings)
    return size_by_labels(settings, pictures.names, pictures.labels)


def size_by_labels(settings: Mapping[str, Any], names: Sequence[str], labels: Mapping[str, np.ndarray]) -> DatasetInfo:
    """The size of a data set of square images, before broken ones are left out.

    Args:
        settings: the data set's.
        names: of its classes, or of outputs.
        labels: of the splits `train` and `test`.
    """
    side, train, test = settings["size"], labels["train"], labels["test"]
    shape = CHANNELS[settings.get("mode", "RGB")], side, side
    targets = kind_of_targets(train, test), first_nonbinary_target(names, train, test)
    return DatasetInfo(shape, len(names), len(train), len(test), 1, *targets)


def _prepare(label: str, settings: dict[str, Any], folder: Path, scratch: Path) -> Meta:
    path, seen = Path(settings["path"]), stat_digest(settings["path"])
    try:
        path = path.expanduser()
        unpacked = as_folder(path, scratch / "unpacked")
    except (OSError, RuntimeError) as error:  # no permission, or the user has no home folder
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    pictures = _read(path, unpacked, settings)
    loaded = [_load(path, split, pictures, settings, scratch) for split in pictures.files]
    return write_loaded(label, settings, folder, path, pictures.names, loaded, seen)


def write_loaded(
    label: str,
    settings: dict[str, Any],
    folder: Path,
    path: Path,
    classes: Sequence[str],
    loaded: Sequence[Loaded],
    watched: str | None,
) -> Meta:
    """Write decoded splits as prepared arrays into `folder`, and log what is remarkable about them.

    Args:
        label: the name shown in figures and run folders.
        settings: the data set's, in the configuration.
        folder: where to write.
        path: where the images are from, for messages.
        classes: their names, or those of outputs.
        loaded: training and test images.
        watched: as in `Meta`.
    """
    _check_white(path, [split.largest for split in loaded if split.largest is not None], settings)
    remarks = describe_left_out(sum((split.remarks for split in loaded), Counter()))
    if remarks:
        log.warning("%s: %s", path, remarks)
    arrays = [split.split for split in loaded]
    log_duplicates_and_class_sizes(path, classes, *arrays)
    return write(folder, label, classes, *arrays, settings=settings, watched=watched)


def _read(path: Path, unpacked: Path, settings: Mapping[str, Any]) -> Pictures:
    """The pictures by class folders or, where `keys` says so, by a table beside them."""
    left_out: Counter[str] = Counter()
    try:
        if "keys" in settings:
            from smallbatch.data import metadata_csv  # which needs pyarrow

            pictures = metadata_csv.read(path, unpacked, settings, left_out)
        else:
            pictures = _in_class_folders(path, *classes_of_splits(path, unpacked, left_out), settings)
    except OSError as error:
        raise UserError(f"{path}: {shown(error.filename)} cannot be read ({error.strerror})") from error
    if left_out.total():
        log.warning("%s: left out: %s", path, describe_left_out(left_out))
    return pictures


def _in_class_folders(path: Path, root: Path, splits: dict[str, Classes], settings: Mapping[str, Any]) -> Pictures:
    if "all" in splits:
        if "test_fraction" not in settings:
            refuse(path, "test_fraction", None, "a number between 0 and 1, unless there are train/ and test/ or val/")
        splits = split_by_seed(path, splits["all"], settings)
    elif "test_fraction" in settings:
        refuse(path, "test_fraction", settings["test_fraction"], "none, since there are train/ and test/ or val/")
    files = {split: [name for images in classes.values() for name in images] for split, classes in splits.items()}
    counts = {split: [len(images) for images in classes.values()] for split, classes in splits.items()}
    labels = {split: np.repeat(np.arange(len(of)), of).astype(np.int64) for split, of in counts.items()}
    return Pictures(root, list(splits["train"]), files, labels)


def _load(path: Path, split: str, pictures: Pictures, settings: dict[str, Any], scratch: Path) -> Loaded:
    files = pictures.files[split]

    def picture(number: int, size: int, mode: str, white: int) -> Picture:
        return decoded(pictures.root / files[number], size, mode, white)

    return load(path, split, pictures.names, files, pictures.labels[split], picture, settings, scratch)


def load(
    path: Path,
    split: str,
    classes: Sequence[str],
    names: Sequence[str],
    labels: np.ndarray,
    picture: Callable[[int, int, str, int], Picture],
    settings: dict[str, Any],
    scratch: Path,
) -> Loaded:
    """Decode one split; with `broken_images: skip`, images that cannot be decoded are left out.

    Args:
        path: where the images are from, for messages.
        split: its name.
        classes: their names, or those of outputs.
        names: each image's, for messages.
        labels: theirs, [n] int64, or targets [n, outputs] float32.
        picture: decodes an image by its number; takes pixels a side, mode and the value of white, too.
        settings: the data set's.
        scratch: folder for decoded images.
    """
    size, mode = settings["size"], settings.get("mode", "RGB")
    images = _reserved(scratch / f"{split}.bin", (len(names), CHANNELS[mode], size, size))
    broken, largest, remarks = _decode_all(path, names, picture, images, settings)
    if not broken:
        return Loaded(Split(images, labels), largest, remarks)
    log.warning("%s: left out %d broken images of %d in the %s split", path, len(broken), len(names), split)
    whole = np.setdiff1d(np.arange(len(names)), broken)
    for new, old in enumerate(whole):
        images[new] = images[old]
    if not len(whole):
        raise UserError(f"{path}: all images in the {split} split are broken")
    counts = np.bincount(labels[whole], minlength=len(classes)) if labels.ndim == 1 else np.ones(len(classes))
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise UserError(f"{path}: class {shown(name)}: all its images in the {split} split are broken")
    return Loaded(Split(images[: len(whole)], labels[whole]), largest, remarks)


def _check_white(path: Path, largest: list[int], settings: dict[str, Any]) -> None:
    """Refuse files of 16 bits that seem to hold 14 or fewer: scaled as 16 bits they would keep few grey levels."""
    if not largest:
        return
    highest, white = max(largest), settings.get("white")
    log.info("%s: the largest value in images of 16 bits is %d; white is %d", path, highest, white or DEEP)
    if white is None and highest <= MAX_14_BIT_VALUE:
        allowed = f"the value that is white ({DEEP} where the images are dark), since no pixel is above {highest}"
        refuse(
            path, "white", None, f"{allowed}, in files of 16 bits; colours of 16 bits are to be scaled in their files"
        )
    if white is not None and highest > white:
        refuse(path, "white", white, f"{highest} or more, the largest value in images of 16 bits")


def _reserved(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of this shape that is mapped to a file, so that a data set may be larger than the memory.

    The disk space is allocated at once: writing to a mapped file on a full disk would kill the process.
    """
    size = math.prod(shape)
    with writing_errors(file), open(file, "wb") as handle:
        handle.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
    return np.memmap(file, np.uint8, "r+", shape=shape)


def _decode_all(
    path: Path,
    names: Sequence[str],
    picture_of: Callable[[int, int, str, int], Picture],
    images: np.ndarray,
    settings: dict[str, Any],
) -> tuple[list[int], int | None, Counter[str]]:
    """Decode `names` into `images` [n, c, h, w] in threads, since Pillow works without the interpreter's lock.

    Returns the indices of broken images in ascending order, and of the others the largest value and the remarks as in
    `Loaded`; raises an error at the first broken image unless these are to be skipped.
    """
    mode, white = settings.get("mode", "RGB"), settings.get("white", DEEP)
    skip = settings.get("broken_images", "stop") == "skip"

    def decode(start: int) -> tuple[list[int], list[int], list[str]]:
        broken: list[int] = []
        largest: list[int] = []
        remarks: list[str] = []
        for number in range(start, min(start + CHUNK, len(names))):
            try:
                picture = picture_of(number, images.shape[-1], mode, white)
            except BrokenImage as error:
                if not skip:
                    what = f"{shown(names[number])} is a broken image ({error})"
                    raise UserError(f"{path}: {what}; `broken_images: skip` leaves such out") from error
                log.warning("%s: %s is left out, a broken image (%s)", path, shown(names[number]), error)
                broken.append(number)
            else:
                images[number] = picture.pixels
                largest += [] if picture.largest is None else [picture.largest]
                remarks += picture.remarks
        return broken, largest, remarks

    Image.init()  # loads the formats, which threads must not do at the same time
    broken: list[int] = []
    largest: list[int] = []
    remarks: list[str] = []
    with (
        collecting_pillow_warnings(),
        ThreadPoolExecutor(processors()) as pool,
        tqdm(desc=shown(path.name), total=len(names), unit="image", disable=None) as bar,
    ):
        for part in pool.map(decode, range(0, len(names), CHUNK)):
            broken += part[0]
            largest += part[1]
            remarks += part[2]
            bar.update(min(CHUNK, len(names) - bar.n))
    return broken, max(largest, default=None), Counter(remarks)
