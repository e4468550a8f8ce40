"""Any folder or archive of class folders with images, made into square images of one size.

Either `train/` and `test/` (or `val/`) with class folders in each, or class folders that are split here by a seed.
The shorter side is resized to the wanted size, bilinear with antialiasing, and the centre square is kept.
"""

import logging
import math
import os
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from tqdm import tqdm

from smallbatch.data.archives import folders, opened, visible
from smallbatch.data.decoding import BrokenImage, decoded
from smallbatch.data.prepared import Meta, Split, write
from smallbatch.data.watching import digest
from smallbatch.environment import processors
from smallbatch.errors import UserError, refuse
from smallbatch.files import folder_is_writable, writing_errors

log = logging.getLogger(__name__)

EXTENSIONS = (".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff")
EXTENSIONS += (".webp",)
CHANNELS = {"RGB": 3, "L": 1}
CHUNK = 32  # images a task: enough to hide its cost, few enough for a smooth bar

Classes = dict[str, list[str]]
"""Class name -> its images, as paths below the root, both in sorted order."""


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the images of a folder or an archive as prepared arrays.

    While it works it needs room beside `folder` for the unpacked archive, and for the arrays a second time.

    Raises:
        UserError: the path, a class or an image is missing or broken, or the settings do not fit what is there.
    """
    folder_is_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        return _prepare(label, settings, folder, Path(scratch))


def watched(settings: dict[str, Any]) -> str | None:
    """A digest over the visible files at the path, or of the archive, by name, size and time; none where it is not."""
    path = Path(settings["path"]).expanduser()
    if path.is_file():
        return digest(path, [path])
    return digest(path, (Path(place, name) for place, _, names in os.walk(path) for name in names if visible(name)))


def _prepare(label: str, settings: dict[str, Any], folder: Path, scratch: Path) -> Meta:
    seen = watched(settings)
    path = Path(settings["path"]).expanduser()
    root = opened(path, scratch / "unpacked")
    try:
        splits = _splits(path, root, settings)
    except OSError as error:
        raise UserError(f"{path}: {error.filename} cannot be read ({error.strerror})") from error
    arrays = [_load(path, root, name, classes, settings, scratch) for name, classes in splits.items()]
    return write(folder, label, splits["train"], *arrays, settings=settings, watched=seen)


def _splits(path: Path, root: Path, settings: dict[str, Any]) -> dict[str, Classes]:
    """The classes of the train and the test split."""
    held_out = [name for name in ("test", "val") if (root / name).is_dir()]
    if not ((root / "train").is_dir() and held_out):
        return _split_by_seed(path, _classes(path, root, root), settings)
    if "test_fraction" in settings:
        refuse(path, "test_fraction", settings["test_fraction"], f"none, since there are train/ and {held_out[0]}/")
    log.info("%s: the test split is %s/", path, held_out[0])
    train, test = (_classes(path, root, root / name) for name in ("train", held_out[0]))
    for name, extra in (("train", train.keys() - test.keys()), (held_out[0], test.keys() - train.keys())):
        if extra:
            raise UserError(f"{path}: the splits have different classes; only in {name}/: {_some(sorted(extra))}")
    return {"train": train, "test": test}


def _some(names: Sequence[str]) -> str:
    """A list of names that does not fill the screen."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _classes(path: Path, root: Path, folder: Path) -> Classes:
    """The class folders in `folder`, each with at least one image at whatever depth."""
    classes = {entry.name: _images(root, entry) for entry in folders(folder)}
    shown = path / folder.relative_to(root)
    if not any(classes.values()):
        raise UserError(f"{shown}: no class folders with images; known are {' '.join(EXTENSIONS)}")
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise UserError(f"{shown}: class folders without images: {_some(empty)}; known are {' '.join(EXTENSIONS)}")
    if len(classes) == 1:
        raise UserError(f"{shown}: found one class folder, {next(iter(classes))}; expected two or more")
    return classes


def _images(root: Path, folder: Path) -> list[str]:
    """The images below `folder`, as sorted paths relative to `root`."""
    found = []
    for place, inner, files in os.walk(folder, onerror=_raise):
        inner[:] = filter(visible, inner)
        found += [Path(place, name) for name in files if visible(name) and Path(name).suffix.lower() in EXTENSIONS]
    return sorted(image.relative_to(root).as_posix() for image in found)


def _raise(error: OSError) -> NoReturn:
    raise error


def _split_by_seed(path: Path, classes: Classes, settings: dict[str, Any]) -> dict[str, Classes]:
    """Put a fraction of each class into the test split; which images does not depend on the other classes."""
    if "test_fraction" not in settings:
        refuse(path, "test_fraction", None, "a number between 0 and 1, unless there are train/ and test/ or val/")
    fraction, seed = settings["test_fraction"], settings.get("split_seed", 0)
    train, test = {}, {}
    for name, images in classes.items():
        count = round(len(images) * fraction)
        if not 0 < count < len(images):
            less = "test" if count == 0 else "training"
            raise UserError(
                f"{path}: test_fraction: {fraction} leaves class {name} ({len(images)} images) no {less} image"
            )
        order = np.random.default_rng([seed, zlib.crc32(os.fsencode(name))]).permutation(len(images))
        test[name] = [images[place] for place in sorted(order[:count])]
        train[name] = [images[place] for place in sorted(order[count:])]
    return {"train": train, "test": test}


def _load(path: Path, root: Path, split: str, classes: Classes, settings: dict[str, Any], scratch: Path) -> Split:
    """Decode one split; with `broken_images: skip` without those that cannot be decoded."""
    names = [name for images in classes.values() for name in images]
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()]).astype(np.int64)
    size, mode = settings["size"], settings.get("mode", "RGB")
    images = _reserved(scratch / f"{split}.bin", (len(names), CHANNELS[mode], size, size))
    skip = settings.get("broken_images", "stop") == "skip"
    broken = _decode_all(path, root, names, images, mode, skip)
    if not broken:
        return Split(images, labels)
    log.warning("%s: left out %d broken images of %d in the %s split", path, len(broken), len(names), split)
    whole = np.setdiff1d(np.arange(len(names)), broken)
    for new, old in enumerate(whole):
        images[new] = images[old]
    counts = np.bincount(labels[whole], minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise UserError(f"{path}: class {name}: all its images in the {split} split are broken")
    return Split(images[: len(whole)], labels[whole])


def _reserved(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of this shape in a file, so that a data set may be larger than the memory.

    The disk space is taken at once: a write into a mapped file that finds none would kill the process.
    """
    size = math.prod(shape)
    with writing_errors(file), open(file, "wb") as handle:
        handle.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
    return np.memmap(file, np.uint8, "r+", shape=shape)


def _decode_all(path: Path, root: Path, names: list[str], images: np.ndarray, mode: str, skip: bool) -> list[int]:
    """Decode `names` into `images` [n, c, h, w] in threads, since Pillow works without the interpreter's lock.

    Returns the places of broken images in ascending order; raises at the first of them unless `skip`.
    """

    def decode(start: int) -> list[int]:
        broken = []
        for place in range(start, min(start + CHUNK, len(names))):
            try:
                images[place] = decoded(root / names[place], images.shape[-1], mode)
            except BrokenImage as error:
                if not skip:
                    raise UserError(f"{path}: {names[place]} is a broken image ({error})") from error
                log.warning("%s: %s is left out, a broken image (%s)", path, names[place], error)
                broken.append(place)
        return broken

    Image.init()  # loads the formats, which threads must not do at the same time
    found = []
    with (
        ThreadPoolExecutor(processors()) as pool,
        tqdm(desc=path.name, total=len(names), unit="image", disable=None) as bar,
    ):
        for broken in pool.map(decode, range(0, len(names), CHUNK)):
            found += broken
            bar.update(min(CHUNK, len(names) - bar.n))
    return found
