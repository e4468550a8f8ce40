"""Decodes an image file into a square of one size and mode; recognises files that are not images or not supported."""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from smallbatch.core.errors import UserError
from smallbatch.data.folder_listing import shown

# Pillow detects formats by content, not by name, and would pass an EPS file to Ghostscript, which executes it. FORMATS
# are those that Pillow decodes itself and recognises by their first bytes. FAMILIAR are those of which Pillow gets many
# files, from cameras, programs and the web.
FAMILIAR = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
FORMATS = (
    *FAMILIAR, "DIB", "ICO", "CUR", "ICNS", "PSD", "QOI", "DDS", "SGI", "SUN", "PCX", "DCX", "MSP", "PIXAR",
    "BLP", "FTEX", "GBR", "FLI", "FITS", "MCIDAS", "XBM", "XPM",
)  # fmt: skip
FORMAT_BY_EXTENSION = dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA")
"""Formats that only the file's name identifies."""

EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf",
    ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Extensions that mark a file as an image: if it cannot be decoded, it is broken."""

RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
_HEIC = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)

SAMPLE_FORMAT = 339
"""TIFF tag of the number type of pixels: 1 unsigned, 2 signed."""

DEEP = 0xFFFF
"""Value of white in pixels of 16 bits."""

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns an image upright."""


class BrokenImage(Exception):
    """An image that cannot be decoded; the message says why."""


class Picture(NamedTuple):
    """A decoded image as used in training.

    pixels: [channels, size, size] uint8.
    largest: the largest value in the file if it has 16 bits and does not say which value is white, else None.
    remarks: further remarks for the user, each naming a kind of images.
    """

    pixels: np.ndarray
    largest: int | None
    remarks: tuple[str, ...]


def kind_of_non_image(file: Path) -> str | None:
    """The kind of a file that is not a supported image, else None; judged by content and name.

    Raises:
        UserError: the file cannot be read.
    """
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS:
        return None  # decoding finds out
    if suffix in RAW:
        return "camera raw files"
    if suffix == ".thm":
        return "thumbnails of videos"
    try:
        with open(file, "rb") as content:
            head = content.read(16)
            if _HEIC.match(head) and not _opens(content, suffix):
                return "HEIC files, which Pillow cannot read"
            if has_image_signature(head) or _opens(content, suffix):
                return None
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read ({error.strerror})") from error
    return f"{suffix} files" if re.fullmatch(r"\.[a-z]\w{0,7}", suffix) else "files of no known kind"


def has_image_signature(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a familiar format: such a file is broken if it cannot be decoded."""
    Image.init()
    recognisers = (Image.OPEN[name][1] for name in FAMILIAR if name not in ("BMP", "PPM"))  # known by 2 bytes only
    return any(recognises(head) for recognises in recognisers if recognises)


def _opens(content: io.BufferedReader, suffix: str) -> bool:
    try:
        with Image.open(content, formats=_formats(suffix)):
            return True
    except MemoryError:
        raise
    except Exception as error:  # Pillow's exceptions for files of other kinds have no common base class
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return False


def _formats(suffix: str) -> tuple[str, ...]:
    return (*FORMATS, FORMAT_BY_EXTENSION[suffix]) if suffix in FORMAT_BY_EXTENSION else FORMATS


def decoded(file: Path, size: int, mode: str, white: int = DEEP) -> Picture:
    """The centre square of an image, upright. Damaged metadata do not make it a broken image.

    Args:
        file: the image.
        size: pixels a side.
        mode: RGB, or L for grey.
        white: the value of white in files of 16 bits that do not state it.

    Raises:
        BrokenImage: the image cannot be decoded.
        UserError: the file cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read ({error.strerror})") from error
    return decoded_content(data, size, mode, white, _formats(file.suffix.lower()))


def decoded_content(
    data: bytes, size: int, mode: str, white: int = DEEP, formats: tuple[str, ...] = FORMATS
) -> Picture:
    """As `decoded`, of the content of a file; `formats` are those that it may have."""
    try:
        return _picture(data, formats, size, mode, white)
    except BrokenImage:
        bare = without_metadata(data)
        if bare == data:
            raise
        with contextlib.suppress(BrokenImage):
            picture = _picture(bare, formats, size, mode, white)
            return picture._replace(
                remarks=(*picture.remarks, "pictures without their metadata, which are damaged or too large")
            )
        raise


class _WarningCount(threading.local):
    """Number of Pillow's warnings in this thread while `collecting_pillow_warnings` is active."""

    count = 0


_warnings = _WarningCount()


@contextlib.contextmanager
def collecting_pillow_warnings() -> Iterator[None]:
    """Context in which Pillow's warnings become remarks on the picture; to be entered in the main thread."""

    def count_warning(*_: object, **__: object) -> None:
        _warnings.count += 1

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.showwarning = count_warning
        yield


def _picture(data: bytes, formats: tuple[str, ...], size: int, mode: str, white: int) -> Picture:
    before = _warnings.count
    with image_in(data, formats) as image:
        cut = _is_cut_to_8_bits(image)
        image.load()
        if cut and white != DEEP:
            raise ValueError("colours of 16 bits, of which Pillow keeps the upper 8: `white` cannot be applied to them")
        remarks, turn = [], None
        try:
            turn = _TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # Pillow's exceptions for odd metadata have no common base class
            remarks.append("pictures as they lie, since their EXIF block cannot be read")
        else:
            remarks += ["pictures with damaged metadata, which may have said how to turn them"] * (
                _warnings.count > before
            )
        if _is_invisible(image):
            remarks.append("wholly transparent pictures (white)")
        upright = in_mode(image, mode, white)
        if turn is not None:
            upright = upright.transpose(turn)
        pixels = _square_pixels(upright, size)
        largest = _largest(image, cut)
        if _has_more(image):
            remarks.append("pictures whose further frames or pages are not used")
    return Picture(pixels, largest, tuple(remarks))


def picture_of(image: Image.Image, size: int, mode: str) -> Picture:
    """As `decoded`, of an image in memory."""
    return Picture(_square_pixels(in_mode(image, mode), size), None, ())


def _square_pixels(image: Image.Image, size: int) -> np.ndarray:
    """The centre square, [channels, size, size] uint8."""
    pixels = np.asarray(square(image, size))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextlib.contextmanager
def image_in(data: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile]:
    """Open an image from the content of its file; the pixels are decoded on demand.

    Raises:
        BrokenImage: the image cannot be decoded, here or in the body of the context.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_camera_raw(data, image)
            _check_signs(image)
            yield image
    except UnidentifiedImageError as error:
        what = (
            "HEIC, which Pillow cannot read"
            if _HEIC.match(data)
            else f"none of the formats {', '.join(FAMILIAR)} or rarer ones"
        )
        raise BrokenImage(what) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's exceptions for broken files have no common base class
        raise BrokenImage(" ".join(str(error).split())) from error


def _check_camera_raw(data: bytes, image: Image.Image) -> None:
    """Refuse a camera's raw file with another extension: Pillow reads it as a TIFF and finds only the thumbnail."""
    if isinstance(image, TiffImageFile) and (
        data[8:10] == b"CR" or 0xC612 in image.tag_v2 or image.tag_v2.get(254) == 1
    ):
        raise ValueError("a camera's raw file or a thumbnail")


def _check_signs(image: Image.Image) -> None:
    """Refuse signed pixels of 8 bits: Pillow reads them as unsigned, which swaps dark and bright."""
    signed = isinstance(image, TiffImageFile) and 2 in np.ravel(image.tag_v2.get(SAMPLE_FORMAT, 1))
    if signed and not image.mode.startswith("I"):
        raise ValueError("pixels of 8 bits with a sign, which Pillow cannot read")


def without_metadata(data: bytes) -> bytes:
    """A PNG, JPEG or AVIF file without metadata (texts, EXIF, thumbnails), which change no pixel; others unchanged."""
    if data[4:8] == b"ftyp":
        head, mark, rest = data.partition(b"mdat")
        return head.replace(b"Exif", b"none") + mark + rest  # items of unknown kind are ignored
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(b"\xff\xd8\xff") else data


def _bare_png(data: bytes) -> bytes:
    kept, offset = [data[:8]], 8
    while offset < len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        kind = data[offset + 4 : offset + 8]
        if kind[:1].isupper() or kind == b"tRNS":  # capital: needed for decoding
            kept.append(data[offset:end])
        offset = end
    return b"".join(kept)


def _bare_jpeg(data: bytes) -> bytes:
    kept, offset = [data[:2]], 2
    # Up to the pixels.
    while data[offset : offset + 1] == b"\xff" and data[offset + 1 : offset + 2] not in (b"", b"\xda"):
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4])
        if not _is_jpeg_metadata(data[offset + 1]):
            kept.append(data[offset:end])
        offset = end
    return b"".join(kept) + data[offset:]


def _is_jpeg_metadata(marker: int) -> bool:
    """Whether a marker begins an application's block or a comment; not JFIF's or Adobe's, which define the colours."""
    return marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)


def in_mode(image: Image.Image, mode: str, white: int = DEEP) -> Image.Image:
    """Convert to 8 bits, colour or grey: transparency is laid over white, and 16 bits are scaled, not truncated."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nothing says which value is white")
    if image.mode.startswith("I"):
        white = _implied_white(image) or white
        deep = np.minimum(_deep(image), white)
        if (
            isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        ):  # white is 0; Pillow respects that only for 8 bits
            deep = white - deep
        image = Image.fromarray(((deep * 255 + white // 2) // white).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_invisible(image: Image.Image) -> bool:
    """Whether the image is fully transparent, so that it becomes white whatever its colours."""
    if not image.has_transparency_data or image.mode.startswith("I"):  # transparency of 16-bit images is not applied
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[1] == 0


def _deep(image: Image.Image) -> np.ndarray:
    deep = np.asarray(image).astype(np.int64)
    if deep.min() < 0 or deep.max() > DEEP:
        raise ValueError("pixels of more than 16 bits")
    return deep


def _implied_white(image: Image.Image) -> int | None:
    """The value of white if the file implies it by a bit depth between 8 and 16, else None."""
    bits = image.tag_v2.get(258, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return (1 << bits) - 1 if 8 < bits < 16 else None


def _is_cut_to_8_bits(image: ImageFile) -> bool:
    """Whether Pillow will keep only the upper 8 of 16 bits, as for colours; to be called before decoding."""
    if image.mode.startswith("I") or not image.tile:
        return False
    tile = image.tile[0]
    return "16" in tile.codec_name or ";16" in str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _largest(image: Image.Image, cut: bool) -> int | None:
    """The largest pixel value, of 65535, in a file of 16 bits that does not state which value is white; else None."""
    if cut:
        extrema = image.getextrema()
        return 257 * max(int(high) for _, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
    return int(_deep(image).max()) if image.mode.startswith("I") and not _implied_white(image) else None


def _has_more(image: Image.Image) -> bool:
    """Whether there are frames or pages after the first, which is the only one decoded."""
    try:
        return image.format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") and bool(getattr(image, "is_animated", False))
    except Exception:  # the frame that is used has been decoded
        return False


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square at `size`, as if the whole image were resized and then cropped, but computed in one step."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
