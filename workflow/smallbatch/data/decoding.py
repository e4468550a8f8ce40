"""One image file decoded into a square of one size and mode."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smallbatch.errors import UserError

# Pillow goes by content, not by extension, and would hand an EPS file to Ghostscript, which runs it.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")


class BrokenImage(Exception):
    """An image that cannot be decoded; the text says why."""


def decoded(file: Path, size: int, mode: str) -> np.ndarray:
    """The centre square of an image, upright, [channels, size, size] uint8.

    Args:
        file: the image.
        size: pixels a side.
        mode: RGB or L, grey.

    Raises:
        BrokenImage: it cannot be decoded.
        UserError: it cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    with image_in(data) as image:
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.asarray(square(in_mode(image, mode), size))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


@contextlib.contextmanager
def image_in(data: bytes) -> Iterator[Image.Image]:
    """The image that an image file's bytes hold; its pixels are decoded when they are asked for.

    Raises:
        BrokenImage: it cannot be decoded, here or in the block.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImage(f"none of the formats {', '.join(FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken file makes Pillow raise has no common base
        raise BrokenImage(" ".join(str(error).split())) from error


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8 bits of colour or grey. What is transparent is laid over white; 16 bits are scaled, not cut off."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nothing says which value is white")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise ValueError("pixels of more than 16 bits")
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square at `size`: as if the whole were resized and then cropped, but without the whole in between."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
