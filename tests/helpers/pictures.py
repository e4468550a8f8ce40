"""Small made folders of pictures, and what is prepared of them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers import refusal
from smallbatch import data
from smallbatch.data import prepared

SIZE = 8


def flat(value: int | tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.new(mode, size, value)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def pets(root: Path, count: int = 4) -> Path:
    """Two classes, split here by seed: image number i of class c is grey of value 100 c + i."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(count):
            save(flat(100 * label + number, "L"), root / name / f"{number:02}.png")
    return root


def divided(root: Path, held_out: str = "test") -> Path:
    """The same, in train/ and another folder."""
    pets(root / "train", 3)
    pets(root / held_out, 2)
    return root


def prepare(path: Path, folder: Path | None = None, **settings: Any) -> prepared.Prepared:
    folder = folder or path.parent / "prepared" / "pets"
    settings = {"source": "image-folder", "path": str(path), "size": SIZE} | settings
    data.prepare("pets", settings, folder, folder / "downloads")
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name], "nothing else is left"
    return prepared.read(folder)


def refused(path: Path, *parts: str, **settings: Any) -> None:
    with refusal(path, *parts):
        prepare(path, **settings)


def pixels(image: Image.Image, folder: Path, name: str = "a.png", mode: str = "RGB", **options: Any) -> np.ndarray:
    """What becomes of one image, [c, SIZE, SIZE]."""
    root = divided(folder / "photos")
    save(image, root / "train" / "ant" / name, **options)
    save(flat(0), root / "test" / "ant" / "a.png")
    return prepare(root, mode=mode).train.images[0]


def unreadable(root: Path, name: str = "train/cat/01.png") -> Path:
    """Break one image in the middle."""
    file = root / name
    save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)), file)
    file.write_bytes(file.read_bytes()[:1000])
    return root


def made(root: Path, files: str) -> Path:
    """Images of one colour at these places."""
    for name in files.split():
        save(flat(1), root / f"{name}.png")
    return root
