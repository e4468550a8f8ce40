"""Folders as torchvision lays out its data sets, in small.

Of each, image i is grey of value i and in class i % 2: six to train with and two to test with, or twelve that are not
divided.
"""

import bz2
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

TRAIN, TEST, WHOLE = list(range(6)), [100, 101], list(range(12))
NAMES = ("cat", "dog")
SPLITS = {"train": TRAIN, "test": TEST}


def any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take files whose md5 is not that of the originals."""
    for module in ("fer2013", "flowers102", "semeion", "stl10", "svhn"):
        name = f"torchvision.datasets.{module}.check_integrity"
        monkeypatch.setattr(name, lambda file, md5=None: os.path.isfile(file))


def file(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(path, quality=100)
    return path


def text(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def flat(values: list[int], *shape: int) -> np.ndarray:
    """[n, *shape] uint8."""
    array = np.empty((len(values), *shape), np.uint8)
    array[:] = np.array(values, np.uint8).reshape(-1, *[1] * len(shape))
    return array


def labels(values: list[int], first: int = 0) -> np.ndarray:
    return np.array([value % 2 + first for value in values], np.uint8)


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    head = np.array([kind << 8 | array.ndim, *array.shape], ">i4")
    path.write_bytes(head.tobytes() + array.astype(array.dtype.newbyteorder(">")).tobytes())


def mnist(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for split, values in (("train", TRAIN), ("t10k", TEST)):
            idx(root / name / "raw" / f"{split}-images-idx3-ubyte", flat(values, 28, 28))
            idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", labels(values))

    return make


def emnist(root: Path) -> None:
    for split, values in SPLITS.items():
        for kind, first in (("letters", 1), ("balanced", 0)):
            raw = root / "EMNIST" / "raw"
            idx(raw / f"emnist-{kind}-{split}-images-idx3-ubyte", flat(values, 28, 28))
            idx(raw / f"emnist-{kind}-{split}-labels-idx1-ubyte", labels(values, first))


def qmnist(root: Path) -> None:
    for split, values in SPLITS.items():
        raw = root / "QMNIST" / "raw"
        idx(raw / f"qmnist-{split}-images-idx3-ubyte", flat(values, 28, 28))
        idx(raw / f"qmnist-{split}-labels-idx2-int", np.repeat(labels(values)[:, None], 8, 1).astype(np.int32))


def svhn(root: Path) -> None:
    for split, values in SPLITS.items():
        of = labels(values)[:, None]
        pixels = flat(values, 32, 32, 3).transpose(1, 2, 3, 0)
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.where(of == 0, 10, of).astype(np.uint8)})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, values in SPLITS.items():
        flat(values, 3, 96, 96).tofile(folder / f"{split}_X.bin")
        labels(values, 1).tofile(folder / f"{split}_y.bin")
    flat([7], 3, 96, 96).tofile(folder / "unlabeled_X.bin")
    text(folder / "class_names.txt", NAMES)


def usps(root: Path) -> None:
    for name, values in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        with bz2.open(root / name, "wt") as lines:
            for value in values:
                pixel = (value + 0.5) / 255 * 2 - 1  # torchvision rounds down
                lines.write(f"{value % 2 + 1} {' '.join(f'{place}:{pixel}' for place in range(1, 257))}\n")


def semeion(root: Path) -> None:
    """Its pixels are black or white: those of class 1 white."""
    rows = [[float(value % 2)] * 256 + [float(place == value % 2) for place in range(10)] for value in WHOLE]
    np.savetxt(root / "semeion.data", rows)


def pcam(root: Path) -> None:
    import h5py

    (root / "pcam").mkdir()
    for split, values in SPLITS.items():
        for kind, array in (("x", flat(values, 96, 96, 3)), ("y", labels(values).reshape(-1, 1, 1, 1))):
            with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_{split}_{kind}.h5", "w") as h5:
                h5[kind] = array


def fer2013(root: Path) -> None:
    rows = [(value, "Training") for value in TRAIN] + [(TEST[0], "PublicTest"), (TEST[1], "PrivateTest")]
    lines = [f"{value % 2},{' '.join([str(value)] * 48 * 48)},{use}" for value, use in rows]
    text(root / "fer2013" / "fer2013.csv", ["emotion,pixels,Usage", *lines])


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb"
    for value in TRAIN:
        file(folder / "GTSRB" / "Training" / f"{value % 2:05}" / f"{value:05}.ppm", value)
    for value in TEST:
        file(folder / "GTSRB" / "Final_Test" / "Images" / f"{value:05}.ppm", value)
    rows = [f"{value:05}.ppm;8;8;{value % 2}" for value in TEST]
    text(folder / "GT-final_test.csv", ["Filename;Width;Height;ClassId", *rows])


def flowers102(root: Path) -> None:
    folder, values = root / "flowers-102", [*TRAIN, 50, *TEST]
    for number, value in enumerate(values, 1):
        file(folder / "jpg" / f"image_{number:05}.jpg", value)
    savemat(folder / "imagelabels.mat", {"labels": labels(values, 1)})
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 7), "valid": np.array([7]), "tstid": np.array([8, 9])})


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for split, values in SPLITS.items():
        names = [f"{NAMES[value % 2]}/{value:03}.jpg" for value in values]
        for name, value in zip(names, values, strict=True):
            file(folder / "images" / name, value)
        text(folder / "labels" / f"{split}1.txt", names)
        text(folder / "labels" / f"{split}2.txt", names[:2])


def food101(root: Path) -> None:
    for split, values in SPLITS.items():
        for value in values:
            file(root / "food-101" / "images" / NAMES[value % 2] / f"{value}.jpg", value)
        listed = {name: [f"{name}/{value}" for value in values if value % 2 == of] for of, name in enumerate(NAMES)}
        text(root / "food-101" / "meta" / f"{split}.json", [json.dumps(listed)])


def oxford_iiit_pet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split, values in (("trainval", TRAIN), ("test", TEST)):
        for value in values:
            file(folder / "images" / f"{NAMES[value % 2]}_{value}.jpg", value)
        rows = [f"{NAMES[value % 2]}_{value} {value % 2 + 1} 1 1" for value in values]
        text(folder / "annotations" / f"{split}.txt", rows)


def stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    of_split = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    for split, values in SPLITS.items():
        rows = [(file(folder / f"cars_{split}" / f"{value:05}.jpg", value).name, value % 2 + 1) for value in values]
        savemat(of_split[split], {"annotations": np.array(rows, [("fname", object), ("class", np.uint8)])})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(NAMES, object)})


def fgvc_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "variants.txt", NAMES)
    text(folder / "manufacturers.txt", reversed(NAMES))
    for split, values in (("trainval", TRAIN), ("test", TEST)):
        for value in values:
            file(folder / "images" / f"{value:07}.jpg", value)
        for level in ("variant", "manufacturer"):
            text(folder / f"images_{level}_{split}.txt", [f"{value:07} {NAMES[value % 2]}" for value in values])


def folders(*parts: str, names: tuple[str, str] = NAMES, suffix: str = ".jpg", splits: dict[str, list[int]]):
    """Class folders in each split's folder below that of the parts."""

    def make(root: Path) -> None:
        for split, values in splits.items():
            for value in values:
                file(root.joinpath(*parts, split, names[value % 2], f"{value:03}{suffix}"), value)

    return make


def sun397(root: Path) -> None:
    text(root / "SUN397" / "ClassName.txt", ["/c/cat", "/d/dog/outdoor"])
    for value in WHOLE:
        file(root / "SUN397" / ("c/cat", "d/dog/outdoor")[value % 2] / f"sun_{value:03}.jpg", value)


def caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    file(folder / "BACKGROUND_Google" / "image_0001.jpg", 200)
    for value in WHOLE:
        file(folder / NAMES[value % 2] / f"image_{value // 2 + 1:04}.jpg", value)


def caltech256(root: Path) -> None:
    for value in WHOLE:
        of = value % 2
        folder = root / "caltech256" / "256_ObjectCategories" / f"{of + 1:03}.{NAMES[of]}"
        file(folder / f"{of + 1:03}_{value // 2 + 1:04}.jpg", value)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "Caltech101": caltech101,
    "Caltech256": caltech256,
    "Country211": folders("country211", splits={**SPLITS, "valid": [50, 51]}),
    "DTD": dtd,
    "EMNIST": emnist,
    "EuroSAT": folders("eurosat", splits={"2750": WHOLE}),
    "FER2013": fer2013,
    "FGVCAircraft": fgvc_aircraft,
    "FashionMNIST": mnist("FashionMNIST"),
    "Flowers102": flowers102,
    "Food101": food101,
    "GTSRB": gtsrb,
    "Imagenette": folders(
        "imagenette2", names=("n01440764", "n02102040"), suffix=".JPEG", splits={"train": TRAIN, "val": TEST}
    ),
    "KMNIST": mnist("KMNIST"),
    "MNIST": mnist("MNIST"),
    "OxfordIIITPet": oxford_iiit_pet,
    "PCAM": pcam,
    "QMNIST": qmnist,
    "RenderedSST2": folders("rendered-sst2", names=("negative", "positive"), suffix=".png", splits=SPLITS),
    "SEMEION": semeion,
    "STL10": stl10,
    "SUN397": sun397,
    "SVHN": svhn,
    "StanfordCars": stanford_cars,
    "USPS": usps,
}
