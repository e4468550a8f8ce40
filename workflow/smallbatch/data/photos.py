"""Photos of any size, as JPEG bytes in place: in files of their own or inside uncompressed tar archives."""

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from smallbatch.data.decoding import in_mode
from smallbatch.errors import UserError

SIZE, RESIZED = 224, 256
"""Pixels a side of a crop, and of the shorter side that the centre crop is cut from (He et al. 2015a; torchvision)."""

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Random resized crop: part of the area, ratio of the sides, and tries before the centre is taken, as torchvision has
them. The papers that the protocol follows draw the scale of the shorter side instead; this is what their figures are
reproduced with today."""

ENTRY = np.dtype([("path", "S120"), ("offset", np.int64), ("size", np.int64)])
"""Where a photo lies: a file below the root, and the bytes in it."""


@dataclass(frozen=True)
class Photos:
    """Photos of a split.

    root: the folder that paths are relative to.
    index: [n] of `ENTRY`.
    """

    root: Path
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def content(self, place: int) -> bytes:
        """A photo's bytes.

        Raises:
            UserError: they cannot be read.
        """
        path, offset, size = self.index[place]
        file = self.root / path.decode()
        try:
            with open(file, "rb", buffering=0) as handle:
                handle.seek(offset)
                data = handle.read(size)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise UserError(f"{file}: ends before its photo at byte {offset}; it is cut off")
        return data

    def digest(self, place: int) -> bytes:
        """SHA-256 of a photo's bytes."""
        return hashlib.sha256(self.content(place)).digest()

    def centre(self, place: int) -> np.ndarray:
        """A photo's centre, its shorter side resized to 256: [3, 224, 224] uint8."""
        image = transforms.resize(self._image(place), [RESIZED], antialias=True)
        return _pixels(transforms.center_crop(image, [SIZE, SIZE]))

    def crop(self, place: int, draw: int) -> np.ndarray:
        """A photo's random resized crop: [3, 224, 224] uint8.

        Args:
            place: of the photo.
            draw: decides where the crop lies.
        """
        image = self._image(place)
        top, left, height, width = crop_box(image.height, image.width, draw)
        return _pixels(transforms.resized_crop(image, top, left, height, width, [SIZE, SIZE], antialias=True))

    def _image(self, place: int) -> Image.Image:
        data = self.content(place)
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                return in_mode(image, "RGB")
        except MemoryError:
            raise
        except Exception as error:  # what a broken file makes Pillow raise has no common base
            path, offset, _ = self.index[place]
            raise UserError(f"{self.root / path.decode()}: broken photo at byte {offset} ({error})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # which threads must not do at the same time
    return ("JPEG", "PNG")  # ImageNet has a PNG among its JPEGs


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def crop_box(height: int, width: int, draw: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop of an image; see `SCALE`."""
    draws = np.random.default_rng(draw)
    for _ in range(ATTEMPTS):
        area = height * width * draws.uniform(*SCALE)
        ratio = np.exp(draws.uniform(*np.log(RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws.integers(height - h + 1)), int(draws.integers(width - w + 1)), h, w
    # The largest centre that keeps to the ratios.
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
