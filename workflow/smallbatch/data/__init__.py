"""The data sources: each is prepared as arrays or, if it has photos, as an index.

Importing this package loads no library that only one source needs.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallbatch.core.errors import UserError, refuse
from smallbatch.data.public_datasets import ORIGINAL_MD5, PUBLIC_DATASETS, DatasetInfo

if TYPE_CHECKING:
    from smallbatch.data.prepared import Meta


def _digits(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import digits

    return digits.prepare(label, settings, folder)


def _cifar(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import cifar

    return cifar.prepare(label, settings, folder, downloads)


def _image_folder(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import image_folder

    return image_folder.prepare(label, settings, folder)


def _imagenet(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import imagenet

    return imagenet.prepare(label, settings, folder, _is_original(settings))


def _arrays(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import array_files

    return array_files.prepare(label, settings, folder)


def _size_of_arrays(settings: dict[str, Any]) -> DatasetInfo:
    from smallbatch.data import array_files

    return array_files.read(settings).size


def _function(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import user_function

    return user_function.prepare(label, settings, folder)


def _size_of_function(settings: dict[str, Any]) -> DatasetInfo:
    from smallbatch.data import user_function

    return user_function.read(settings).size


def _digest_of_function(settings: dict[str, Any]) -> str | None:
    from smallbatch.data import user_function

    return user_function.content_digest(settings)


def _size_of_image_folder(settings: dict[str, Any]) -> DatasetInfo | None:
    from smallbatch.data import image_folder

    return image_folder.size(settings)


def _arrow(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import arrow_tables

    return arrow_tables.prepare(label, settings, folder)


def _size_of_arrow(settings: dict[str, Any]) -> DatasetInfo:
    from smallbatch.data import arrow_tables

    return arrow_tables.size(settings)


def _torchvision(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    from smallbatch.data import torchvision_datasets

    return torchvision_datasets.prepare(label, settings, folder)


def _check_torchvision_settings(where: str, key: str, settings: dict[str, Any]) -> None:
    from smallbatch.data import torchvision_datasets

    torchvision_datasets.check_settings(where, key, settings)


def _check_torchvision(settings: dict[str, Any]) -> None:
    from smallbatch.data import torchvision_datasets

    torchvision_datasets.check_layout(settings)


def _how_to_get_from_torchvision(settings: dict[str, Any]) -> str:
    from smallbatch.data import torchvision_datasets

    return torchvision_datasets.how_to_get(settings)


def _digest_of_torchvision(settings: dict[str, Any]) -> str | None:
    from smallbatch.data import torchvision_datasets

    return torchvision_datasets.stat_digest(settings)


def _check_imagenet(settings: dict[str, Any]) -> None:
    from smallbatch.data import imagenet

    imagenet.check_layout(settings)


def _digest_of_path(settings: dict[str, Any]) -> str | None:
    from smallbatch.data import folder_listing

    return folder_listing.stat_digest(settings["path"])


def _digest_of_photos(settings: dict[str, Any]) -> str | None:
    from smallbatch.data import imagenet

    return imagenet.stat_digest(settings)


@dataclass(frozen=True)
class Source:
    """A source of data.

    prepare: makes the prepared arrays from label, settings, folder and downloads.
    required, optional: the source's keys, besides `source` and `label`.
    photos: whether the images are photos of many sizes.
    stat_digest: returns a digest of the names, sizes and times of the source's files, or of the content of a function's
        file, None if there are none; not set if the source cannot change: digits come with scikit-learn, and a CIFAR
        archive's md5 is known.
    check_layout: raises an error if, judging by names and labels alone, the source cannot be prepared.
    size: reads and checks all that is prepared, but for the pixels of files, and returns the size; None if only
        preparing tells. Set if that takes seconds, so that it is done before the first job.
    check_settings: checks values of its keys beyond what the schema does, as the function of that name.
    how_to_get: what to do where its path does not exist.
    """

    prepare: Callable[[str, dict[str, Any], Path, Path], "Meta"]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    photos: bool = False
    stat_digest: Callable[[dict[str, Any]], str | None] | None = None
    check_layout: Callable[[dict[str, Any]], None] | None = None
    size: Callable[[dict[str, Any]], DatasetInfo | None] | None = None
    check_settings: Callable[[str, str, dict[str, Any]], None] | None = None
    how_to_get: Callable[[dict[str, Any]], str] | None = None


SOURCES = {
    "digits": Source(_digits),
    "cifar10": Source(_cifar, optional=("archive", "md5")),
    "cifar100": Source(_cifar, optional=("archive", "md5")),
    "imagenet": Source(
        _imagenet,
        required=("path",),
        photos=True,
        stat_digest=_digest_of_photos,
        check_layout=_check_imagenet,
    ),
    "image-folder": Source(
        _image_folder,
        required=("path", "size"),
        optional=("keys", "mode", "test_fraction", "split_seed", "broken_images", "white"),
        stat_digest=_digest_of_path,
        size=_size_of_image_folder,
    ),
    "arrays": Source(
        _arrays,
        required=("path",),
        optional=("keys", "channels", "test_fraction", "split_seed"),
        stat_digest=_digest_of_path,
        size=_size_of_arrays,
    ),
    "arrow": Source(
        _arrow,
        required=("path", "size"),
        optional=("keys", "mode", "test_fraction", "split_seed", "broken_images", "white"),
        stat_digest=_digest_of_path,
        size=_size_of_arrow,
    ),
    "torchvision": Source(
        _torchvision,
        required=("name", "path", "size"),
        optional=("arguments", "mode", "test_fraction", "split_seed", "broken_images", "white"),
        stat_digest=_digest_of_torchvision,
        check_layout=_check_torchvision,
        check_settings=_check_torchvision_settings,
        how_to_get=_how_to_get_from_torchvision,
    ),
    "function": Source(
        _function,
        required=("path", "function"),
        optional=("channels",),
        stat_digest=_digest_of_function,
        size=_size_of_function,
    ),
}


def prepare(label: str, settings: dict[str, Any], folder: Path, downloads: Path) -> "Meta":
    """Write the data set that `settings` describe as prepared arrays into `folder`.

    label: the name shown in figures and run folders.
    downloads: folder in which downloaded archives are kept for later use.

    Raises:
        UserError: the settings contradict each other, or the source is unavailable or damaged.
    """
    check_settings("settings", label, settings | {"label": label})
    return SOURCES[settings["source"]].prepare(label, settings, Path(folder), Path(downloads))


def reason_to_prepare(label: str, settings: dict[str, Any], folder: Path) -> str | None:
    """The reason to prepare a data set (again), as text; None if the prepared data match the settings.

    Arrays are read in full only if they are newer than their `meta.json`. Prepared data stay valid without their
    source, which may be on a disk that is not mounted, or on another machine.
    """
    from smallbatch.data import prepared

    try:
        meta = prepared.read_meta(folder / prepared.META)
    except UserError as error:
        return str(error)
    if meta.label != label:
        return f"{folder}: holds {meta.label}"
    return prepared.damage(folder, meta) or _other_settings(settings, meta, folder) or _other_source(settings, meta)


def _other_settings(settings: dict[str, Any], meta: "Meta", folder: Path) -> str | None:
    """The first setting that differs from the prepared data; a different location of the source does not count."""
    for key in sorted(settings.keys() | meta.settings.keys(), key=lambda key: (key != "source", key)):
        now, then = settings.get(key), meta.settings.get(key)
        if now != then and key not in ("label", "path", "archive"):
            return f"{folder}: prepared with {key}: {then!r}, which is now {now!r}"
    return None


def _other_source(settings: dict[str, Any], meta: "Meta") -> str | None:
    """The difference, as text, if the source has changed or its path is another one that cannot be used as it is."""
    source, now, then = SOURCES[settings["source"]], settings.get("path"), meta.settings.get("path")
    if source.stat_digest is None:
        return None
    seen = source.stat_digest(settings)
    if now != then and (source.photos or seen is None):  # photos are always read from there
        return f"{now}: prepared from path: {then!r}"
    if seen not in (None, meta.watched):
        return f"{now}: files were added, changed or removed since it was prepared"
    return None


def label(key: str, settings: dict[str, Any]) -> str:
    """The name shown in figures and run folders: the `label`, or else the data set's key in the configuration."""
    own: str = settings.get("label", key)
    return own


def original_size(settings: dict[str, Any]) -> DatasetInfo | None:
    """The size of a data set that must be the original, which is known before it is available; else None."""
    source = settings["source"]
    return PUBLIC_DATASETS[source] if source == "digits" or _is_original(settings) else None


def known_train_images(settings: dict[str, Any]) -> int | None:
    """The number of training images if it is known before the data are available, else None."""
    size = original_size(settings)
    return size and size.train


def check_settings(where: str, key: str, settings: dict[str, Any]) -> None:
    """Check the combination of settings, which the schema cannot check, without access to files or the network.

    where: file that holds the settings.
    key: the data set's name in this file.

    Raises:
        UserError: the settings contradict each other; the message names the keys.
    """
    if settings.get("source") not in SOURCES:
        refuse(where, f"datasets.{key}.source", settings.get("source"), ", ".join(SOURCES))
    _check_keys(where, key, settings)
    if settings["source"] in ORIGINAL_MD5 and not _is_original(settings):
        _check_other_pixels(where, key, settings)
    _check_name(where, key, settings)
    if "split_seed" in settings and "test_fraction" not in settings:
        refuse(where, f"datasets.{key}.split_seed", settings["split_seed"], "only together with `test_fraction`")
    if further := SOURCES[settings["source"]].check_settings:
        further(where, key, settings)


def size_of_source(settings: dict[str, Any]) -> DatasetInfo | None:
    """The size of a data set by its source, which is read and checked; None if only preparing it tells.

    Raises:
        UserError: the source cannot be prepared.
    """
    source = SOURCES[settings["source"]]
    if source.size is None:
        return None
    return _size(json.dumps(settings, sort_keys=True), source.stat_digest and source.stat_digest(settings))


@functools.cache
def _size(settings: str, digest: str | None) -> DatasetInfo | None:
    """The size by a source as it is now, by its digest: it is asked for several times."""
    loaded = json.loads(settings)
    size = SOURCES[loaded["source"]].size
    assert size is not None, "asked for of sources that are read alone"
    return size(loaded)


def check_source(where: str, key: str, settings: dict[str, Any]) -> DatasetInfo | None:
    """Make sure that the source of a data set exists and can be prepared; how much is read for that, `Source` says.

    where: origin of the settings, for messages.
    key: the data set's name there.

    Returns:
        Its size, as `size_of_source`.

    Raises:
        UserError: the file or folder does not exist, or what is there cannot be prepared or is ambiguous.
    """
    source = SOURCES[settings["source"]]
    for name in {"path", "archive"} & settings.keys():
        try:
            existing = Path(settings[name]).expanduser().exists()
        except (OSError, RuntimeError, ValueError):  # a folder without permission, an unknown user, an invalid name
            existing = False
        if not existing:
            more = f"; {source.how_to_get(settings)}" if source.how_to_get else ""
            allowed = f"an existing file or folder that can be read{more}"
            refuse(where, f"datasets.{key}.{name}", settings[name], allowed)
    if source.check_layout:
        source.check_layout(settings)
    return size_of_source(settings)


def _check_keys(where: str, key: str, settings: dict[str, Any]) -> None:
    """Check that a source has all keys it needs and none of another source."""
    name = settings["source"]
    source = SOURCES[name]
    for missing in source.required:
        if missing not in settings:
            refuse(where, f"datasets.{key}.{missing}", None, f"a value, which `source: {name}` needs")
    known = ("source", "label", *source.required, *source.optional)
    for extra in settings:
        if extra not in known:
            refuse(where, f"datasets.{key}.{extra}", settings[extra], f"for `source: {name}` only {', '.join(known)}")


def _is_original(settings: dict[str, Any]) -> bool:
    """Whether the data must be the original: CIFAR byte for byte, ImageNet (unless named otherwise) in every image."""
    if settings["source"] == "imagenet":
        return _plain(settings.get("label", "imagenet")) == "imagenet"
    original = ORIGINAL_MD5.get(settings["source"])
    return original is not None and settings.get("md5", original).lower() == original


def _check_other_pixels(where: str, key: str, settings: dict[str, Any]) -> None:
    """Check that an archive whose md5 is not the original's is a local file and has a label of its own."""
    if "archive" not in settings:
        allowed = f"{ORIGINAL_MD5[settings['source']]}, that of the download, unless `archive` is given"
        refuse(where, f"datasets.{key}.md5", settings["md5"], allowed)
    if "label" not in settings:
        refuse(
            where, f"datasets.{key}.label", None, "a name of its own, since `md5` is not that of the original archive"
        )


def _check_name(where: str, key: str, settings: dict[str, Any]) -> None:
    """Check that only the original data are called CIFAR-10, CIFAR-100 or ImageNet, in any spelling."""
    name = label(key, settings)
    plain = _plain(name)
    if plain in (*ORIGINAL_MD5, "imagenet") and not (plain == settings["source"] and _is_original(settings)):
        original = " with the original's `md5`" if plain in ORIGINAL_MD5 else ""
        allowed = f"any other name; this one is kept for `source: {plain}`{original}"
        refuse(where, f"datasets.{key}.label", name, allowed)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def check_augment(where: str, key: str, settings: dict[str, Any], augment: dict[str, Any]) -> None:
    """Check that an augmentation fits a data set.

    Args:
        where: file that holds the augmentation.
        key: the key that it belongs to, such as `experiments.NAME`.
        settings: settings of the data set.
        augment: the augmentation by its keys.

    Raises:
        UserError: photos cannot be padded, arrays not cropped and resized, gray images not changed in saturation, and a
            crop must not miss its image, nor be smaller than what is cut out of it.
    """
    photos = SOURCES[settings["source"]].photos
    gray = settings["source"] == "digits" or settings.get("mode") == "L"
    if gray and augment.get("saturation"):
        allowed = "0 on images of one channel, which have no colours"
        refuse(where, f"{key}.augment.saturation", augment["saturation"], allowed)
    side = settings.get("size") or {"digits": 8, "cifar10": 32, "cifar100": 32, "imagenet": 224}.get(settings["source"])
    if side and augment.get("cutout", 0) > side:
        allowed = f"whole numbers up to {side}, the pixels of an image's side"
        refuse(where, f"{key}.augment.cutout", augment["cutout"], allowed)
    if side and augment.get("pad", 0) >= side:
        refuse(
            where, f"{key}.augment.pad", augment["pad"], f"whole numbers below {side}, the pixels of an image's side"
        )
    if photos and augment.get("pad"):
        refuse(where, f"{key}.augment.pad", augment["pad"], "0 on photos; `resized_crop: true` is their random crop")
    if augment.get("resized_crop") and not photos:
        allowed = f"false on images of one size, as `source: {settings['source']}` has; `pad` is their random crop"
        refuse(where, f"{key}.augment.resized_crop", True, allowed)
