"""Prepares data sets of torchvision by the name of their class, from a folder in which torchvision has laid them out.

Nothing is downloaded here. torchvision lists the images and their labels, and files are decoded as those of any other
source. Left out are classes that unpickle what they read, unpack archives as they read, draw random numbers, number
their classes as a folder happens to be listed, or have no single label for each image.
"""

import inspect
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import check_folder_writable
from smallbatch.data import folder_listing
from smallbatch.data.array_checks import Named, class_count, labels_of
from smallbatch.data.decoding import BrokenImage, Picture, decoded, picture_of
from smallbatch.data.image_folder import Loaded, load, write_loaded
from smallbatch.data.prepared import Meta
from smallbatch.data.splits import split_indices
from smallbatch.study.yaml_validation import suggestion

Arguments = Mapping[str, Any]

Sample = tuple[Path | int, Any]
"""An image's file, or its number where torchvision holds the pixels, and its label."""


class DatasetClass(NamedTuple):
    """A class of torchvision.

    files: what lies in its `root`, as a pattern of file names.
    train, test: its arguments for either split; test is None if it has only one.
    choices: further arguments that may be given, with their values.
    required: those of them that have to be.
    samples: as `_samples`, for a class that would read each image to tell its label.
    """

    files: str
    train: Arguments
    test: Arguments | None
    choices: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    required: tuple[str, ...] = ()
    samples: Callable[[Any], Iterable[Sample]] | None = None


def _by_flag(folder: str, **more: Any) -> DatasetClass:
    return DatasetClass(folder, {"train": True}, {"train": False}, **more)


def _by_split(files: str, train: str = "train", test: str = "test", **more: Any) -> DatasetClass:
    return DatasetClass(files, {"split": train}, {"split": test}, **more)


def _undivided(files: str, **more: Any) -> DatasetClass:
    return DatasetClass(files, {}, None, **more)


def _caltech(folder: str, file: Callable[[int, int], str]) -> Callable[[Any], Iterator[Sample]]:
    def samples(data: Any) -> Iterator[Sample]:
        for number, label in zip(data.index, data.y, strict=True):
            yield Path(data.root, folder, data.categories[label], file(number, label)), label

    return samples


def _gtsrb(data: Any) -> Iterator[Sample]:
    return ((Path(file), label) for file, label in data._samples)


def _pcam(data: Any) -> Iterator[Sample]:
    file, *_ = data._FILES[data._split]["targets"]
    with data.h5py.File(data._base_folder / file) as targets:
        return enumerate(targets["y"][:, 0, 0, 0].tolist())


def _pets(data: Any) -> Iterator[Sample]:
    return zip(data._images, data._labels, strict=True)


_EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")

DATASETS = {
    "Caltech101": _undivided(
        "caltech101", samples=_caltech("101_ObjectCategories", lambda number, label: f"image_{number:04d}.jpg")
    ),
    "Caltech256": _undivided(
        "caltech256",
        samples=_caltech("256_ObjectCategories", lambda number, label: f"{label + 1:03d}_{number:04d}.jpg"),
    ),
    "Country211": _by_split("country211"),
    "DTD": _by_split("dtd", choices={"partition": tuple(range(1, 11))}),
    "EMNIST": _by_flag("EMNIST", choices={"split": _EMNIST}, required=("split",)),
    "EuroSAT": _undivided("eurosat"),
    "FER2013": _by_split("fer2013"),
    "FGVCAircraft": _by_split(
        "fgvc-aircraft-2013b", "trainval", choices={"annotation_level": ("variant", "family", "manufacturer")}
    ),
    "FashionMNIST": _by_flag("FashionMNIST"),
    "Flowers102": _by_split("flowers-102"),
    "Food101": _by_split("food-101"),
    "GTSRB": _by_split("gtsrb", samples=_gtsrb),
    "Imagenette": _by_split("imagenette2*", test="val", choices={"size": ("full", "320px", "160px")}),
    "KMNIST": _by_flag("KMNIST"),
    "MNIST": _by_flag("MNIST"),
    "OxfordIIITPet": _by_split("oxford-iiit-pet", "trainval", samples=_pets),
    "PCAM": _by_split("pcam", samples=_pcam),
    "QMNIST": _by_flag("QMNIST"),
    "RenderedSST2": _by_split("rendered-sst2"),
    "SEMEION": _undivided("semeion.data"),
    "STL10": _by_split("stl10_binary"),
    "SUN397": _undivided("SUN397"),
    "SVHN": _by_split("*_32x32.mat"),
    "StanfordCars": _by_split("stanford_cars"),
    "USPS": _by_flag("usps*.bz2"),
}
"""Where a class has more than two splits, training images are those of its default, and test images its test split."""

SOURCES_INSTEAD = {
    "CIFAR10": "`source: cifar10`, which reads its archive without running what is pickled there",
    "CIFAR100": "`source: cifar100`, which reads its archive without running what is pickled there",
    "ImageNet": "`source: imagenet`, which reads its archives in place",
    "ImageFolder": "`source: image-folder`",
    "DatasetFolder": "`source: image-folder`",
}

NOT_DOWNLOADED = ("FER2013", "StanfordCars")
"""What torchvision does not download."""

NO_CLASS = "N/A"
"""What torchvision calls label 0 of EMNIST's letters, whose labels begin with 1."""


class SplitImages(NamedTuple):
    """The images of a split, or of all splits.

    data: the data set, of torchvision.
    locations: each image's file; or its number in `data`, where that holds the pixels.
    names: each image's, for messages.
    labels: their labels, [n] int64.
    """

    data: Any
    locations: list[Path | int]
    names: list[str]
    labels: np.ndarray


def check_settings(where: str, key: str, settings: Mapping[str, Any]) -> None:
    """Make sure that the class and its arguments are known; the arguments are as for `data.check_settings`."""
    name, given = settings["name"], settings.get("arguments", {})
    if name not in DATASETS:
        allowed = f"one of {', '.join(DATASETS)}, of torchvision's data sets{suggestion(name, list(DATASETS))}"
        refuse(where, f"datasets.{key}.name", name, SOURCES_INSTEAD.get(name, allowed))
    dataset_class = DATASETS[name]
    for argument in [*given, *dataset_class.required]:
        if argument not in dataset_class.choices:
            only = ", ".join(dataset_class.choices) or "none"
            refuse(where, f"datasets.{key}.arguments.{argument}", given[argument], f"of {name} only {only}")
        if given.get(argument) not in dataset_class.choices[argument]:
            choices = ", ".join(map(str, dataset_class.choices[argument]))
            refuse(where, f"datasets.{key}.arguments.{argument}", given.get(argument), choices)
    if dataset_class.test is None and "test_fraction" not in settings:
        allowed = f"a number between 0 and 1, since torchvision does not divide {name}"
        refuse(where, f"datasets.{key}.test_fraction", None, allowed)
    if dataset_class.test is not None and "test_fraction" in settings:
        allowed = f"none, since torchvision divides {name}"
        refuse(where, f"datasets.{key}.test_fraction", settings["test_fraction"], allowed)


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the images as prepared arrays.

    Raises:
        UserError: torchvision cannot read the data set, a label is missing, or an image is broken.
    """
    path, watched = Path(settings["path"]).expanduser(), stat_digest(settings)
    classes, splits = _read(path, settings)
    check_folder_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        loaded = [_loaded(path, split, images, classes, settings, Path(scratch)) for split, images in splits.items()]
        return write_loaded(label, settings, folder, path, classes, loaded, watched)


def check_layout(settings: dict[str, Any]) -> None:
    """Make sure that all but decoding the images succeeds; raises as `prepare`."""
    _read(Path(settings["path"]).expanduser(), settings)


def stat_digest(settings: Mapping[str, Any]) -> str | None:
    """A digest of the data set's files by name, size and time, and of no others beside it; None if there are none."""
    try:
        files = _files(Path(settings["path"]).expanduser(), DATASETS[settings["name"]])
    except (OSError, ValueError, RuntimeError):  # exceptions of Path's methods for invalid paths
        return None
    digests = [folder_listing.stat_digest(str(file)) for file in files]
    return None if None in digests or not digests else " ".join(map(str, digests))


def _files(root: Path, dataset_class: DatasetClass) -> list[Path]:
    return sorted(root.glob(dataset_class.files))


def _loaded(
    path: Path, split: str, images: SplitImages, classes: list[str], settings: dict[str, Any], scratch: Path
) -> Loaded:
    def picture(number: int, size: int, mode: str, white: int) -> Picture:
        location = images.locations[number]
        if isinstance(location, Path):
            return decoded(location, size, mode, white)
        try:
            return picture_of(images.data[location][0], size, mode)
        except MemoryError:
            raise
        except Exception as error:  # readers of such files have no common class of exceptions
            raise BrokenImage(_in_a_line(error)) from error

    return load(path, split, classes, images.names, images.labels, picture, settings, scratch)


def _read(path: Path, settings: Mapping[str, Any]) -> tuple[list[str], dict[str, SplitImages]]:
    """The names of the classes, and the training and test images."""
    name = settings["name"]
    with _errors_in_one_line(path, settings):
        found = {split: _read_split(path, split, name, arguments) for split, arguments in _arguments(settings).items()}
    labels = {split: _labels(path, split, name, images) for split, images in found.items()}
    first = next(iter(found))
    names = list(map(_name, getattr(found[first].data, "classes", getattr(found[first].data, "categories", ()))))
    if names[:1] == [NO_CLASS]:
        names, labels = names[1:], {split: numbers - 1 for split, numbers in labels.items()}
    count = class_count(path, name, labels[first])
    classes = names[:count] if len(set(names)) == len(names) >= count else list(map(str, range(count)))
    chosen = split_indices(path, name, labels, classes, settings)
    return classes, {split: _select(found[source], labels[source], rows) for split, (source, rows) in chosen.items()}


def _select(images: SplitImages, labels: np.ndarray, rows: np.ndarray) -> SplitImages:
    locations, names = [images.locations[row] for row in rows], [images.names[row] for row in rows]
    return SplitImages(images.data, locations, names, labels[rows])


def _name(of_class: str | tuple[str, ...]) -> str:
    """The name of a class, of which torchvision may know several."""
    return of_class if isinstance(of_class, str) else of_class[0]


def _arguments(settings: Mapping[str, Any]) -> dict[str, Arguments]:
    """What the class is called with for `train` and `test`, or for `all` where it does not divide its images."""
    dataset_class, given = DATASETS[settings["name"]], settings.get("arguments", {})
    splits = (
        {"all": dataset_class.train}
        if dataset_class.test is None
        else {"train": dataset_class.train, "test": dataset_class.test}
    )
    return {split: {**given, **arguments} for split, arguments in splits.items()}


@contextmanager
def _errors_in_one_line(path: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of torchvision and of the readers it uses, which have no common base class, into one line."""
    name = settings["name"]
    if not _files(path, DATASETS[name]):
        raise UserError(f"{path}: has no {DATASETS[name].files}, which {name} lies in; {how_to_get(settings)}")
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        said = f"torchvision cannot read {name} ({_in_a_line(error)})"
        raise UserError(f"{path}: {said}; {how_to_get(settings)}") from error


def how_to_get(settings: Mapping[str, Any]) -> str:
    """The line of Python that downloads a data set to its path, if torchvision does so."""
    name, path = settings["name"], os.path.expanduser(settings["path"])
    if name in NOT_DOWNLOADED:
        return "torchvision does not download it, and its documentation says where to get it"
    calls = [
        f"D({', '.join([repr(path), *(f'{key}={value!r}' for key, value in arguments.items())])}, download=True)"
        for arguments in _arguments(settings).values()
    ]
    return f'`python -c "from torchvision.datasets import {name} as D; {"; ".join(calls)}"` downloads it'


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _read_split(path: Path, split: str, name: str, arguments: Arguments) -> SplitImages:
    """A split as torchvision has it, files in the order of their names; labels are as yet whatever it gives."""
    import torchvision.datasets  # which takes seconds

    kind = getattr(torchvision.datasets, name)
    also = {key: value for key, value in _ALWAYS_GIVEN.items() if key in inspect.signature(kind).parameters}
    data = kind(str(path), **arguments, **also)
    samples = sorted(_samples(data, DATASETS[name]), key=itemgetter(0))
    names = [_image_name(path, split, location) for location, _ in samples]
    missing = [file for file, (location, _) in zip(names, samples, strict=True) if not _exists(location)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} files are not there, as {folder_listing.shown(missing[0])}"
        )
    labels = np.array([label for _, label in samples], dtype=object)
    return SplitImages(data, [location for location, _ in samples], names, labels)


def _image_name(path: Path, split: str, location: Path | int) -> str:
    if isinstance(location, Path):
        return location.relative_to(path).as_posix()
    return f"image {location}" if split == "all" else f"image {location} ({split})"


def _exists(location: Path | int) -> bool:
    return not isinstance(location, Path) or location.is_file()


_ALWAYS_GIVEN = {"download": False, "loader": str}
"""Of each class that has such arguments. What would decode a file returns its name: all sources decode in one way."""


def _samples(data: Any, dataset_class: DatasetClass) -> Iterable[Sample]:
    if dataset_class.samples:
        return dataset_class.samples(data)
    given = ((number, data[number]) for number in range(len(data)))
    return ((Path(image) if isinstance(image, str) else number, label) for number, (image, label) in given)


def _labels(path: Path, split: str, name: str, images: SplitImages) -> np.ndarray:
    where = name if split == "all" else f"{name} ({split})"
    if not images.locations:
        raise UserError(f"{path}: {where}: has no images; allowed: some")
    for image, label in zip(images.names, images.labels, strict=True):
        if not isinstance(label, int | np.integer):
            raise UserError(f"{path}: {where}: {image} has the label {label!r}; allowed: an integer for each image")
    labels = images.labels.astype(np.int64)
    return labels_of(path, Named(where, labels), Named("images", labels))
