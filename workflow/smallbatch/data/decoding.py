"""One image file decoded into a square of one size and mode; what is no image file, or none that is taken."""

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
from smallbatch.data.tree import shown

# Pillow goes by content, not by name, and would hand an EPS file to Ghostscript, which runs it. These it decodes
# itself, and knows by how they begin; it has those of FAMILIAR from whoever takes, sends or keeps photos.
FAMILIAR = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
FORMATS = (
    *FAMILIAR, "DIB", "ICO", "CUR", "ICNS", "PSD", "QOI", "DDS", "SGI", "SUN", "PCX", "DCX", "MSP", "PIXAR",
    "BLP", "FTEX", "GBR", "FLI", "FITS", "MCIDAS", "XBM", "XPM",
)  # fmt: skip
UNSIGNED = dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA")
"""Formats that nothing but the file's name tells."""

EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf",
    ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Whoever names a file so says that it is an image: one that cannot be decoded is broken."""

RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
_HEIC = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)

SAMPLE_FORMAT = 339
"""Tag of TIFF files that says what numbers their pixels are: 1 without a sign, 2 with one."""

DEEP = 0xFFFF
"""White where pixels have 16 bits."""

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF's orientation."""


class BrokenImage(Exception):
    """An image that cannot be decoded; the text says why."""


class Picture(NamedTuple):
    """An image as it is trained on.

    pixels: [channels, size, size] uint8.
    largest: the largest value in the file where it has 16 bits of which nothing says which value is white, else none.
    remarks: what else a user should know, each a kind of pictures.
    """

    pixels: np.ndarray
    largest: int | None
    remarks: tuple[str, ...]


def unlike_pictures(file: Path) -> str | None:
    """What kind of files this is one of if it is no image that can be taken, else none. By content, not by name alone.

    Raises:
        UserError: it cannot be read.
    """
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS:
        return None  # decoding it will tell
    if suffix in RAW:
        return "camera raw files"
    if suffix == ".thm":
        return "thumbnails of videos"
    try:
        with open(file, "rb") as content:
            head = content.read(16)
            if _HEIC.match(head) and not _opens(content, suffix):
                return "HEIC files, which Pillow cannot read"
            if begins_like_a_picture(head) or _opens(content, suffix):
                return None
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read ({error.strerror})") from error
    return f"{suffix} files" if re.fullmatch(r"\.[a-z]\w{0,7}", suffix) else "files of no known kind"


def begins_like_a_picture(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a familiar format, so that it is broken if it cannot be decoded."""
    Image.init()
    recognisers = (Image.OPEN[name][1] for name in FAMILIAR if name not in ("BMP", "PPM"))  # known by two bytes alone
    return any(recognises(head) for recognises in recognisers if recognises)


def _opens(content: io.BufferedReader, suffix: str) -> bool:
    try:
        with Image.open(content, formats=_formats(suffix)):
            return True
    except MemoryError:
        raise
    except Exception as error:  # what a file of another kind makes Pillow raise has no common base
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return False


def _formats(suffix: str) -> tuple[str, ...]:
    return (*FORMATS, UNSIGNED[suffix]) if suffix in UNSIGNED else FORMATS


def decoded(file: Path, size: int, mode: str, white: int = DEEP) -> Picture:
    """The centre square of an image, upright. What it says of itself beside its pixels cannot break it.

    Args:
        file: the image.
        size: pixels a side.
        mode: RGB or L, grey.
        white: the value that is white in files of 16 bits that do not say it.

    Raises:
        BrokenImage: it cannot be decoded.
        UserError: it cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read ({error.strerror})") from error
    formats = _formats(file.suffix.lower())
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


class _Warned(threading.local):
    """How often Pillow has warned in this thread, while `hearing_pillow`."""

    count = 0


_warned = _Warned()


@contextlib.contextmanager
def hearing_pillow() -> Iterator[None]:
    """While it lasts, what Pillow only warns of is a remark on the picture. To be called in the main thread."""

    def hear(*_: object, **__: object) -> None:
        _warned.count += 1

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.showwarning = hear
        yield


def _picture(data: bytes, formats: tuple[str, ...], size: int, mode: str, white: int) -> Picture:
    before = _warned.count
    with image_in(data, formats) as image:
        cut = _is_cut_to_8_bits(image)
        image.load()
        if cut and white != DEEP:
            raise ValueError("colours of 16 bits, of which Pillow keeps the upper 8: `white` cannot be applied to them")
        remarks, turn = [], None
        try:
            turn = _TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # what odd metadata make Pillow raise has no common base
            remarks.append("pictures as they lie, since their EXIF block cannot be read")
        else:
            remarks += ["pictures with damaged metadata, which may have said how to turn them"] * (
                _warned.count > before
            )
        if _is_invisible(image):
            remarks.append("wholly transparent pictures (white)")
        upright = in_mode(image, mode, white)
        if turn is not None:
            upright = upright.transpose(turn)
        pixels = np.asarray(square(upright, size))
        largest = _largest(image, cut)
        if _has_more(image):
            remarks.append("pictures whose further frames or pages are not used")
    return Picture(pixels[None] if mode == "L" else pixels.transpose(2, 0, 1), largest, tuple(remarks))


@contextlib.contextmanager
def image_in(data: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile]:
    """The image that an image file's bytes hold; its pixels are decoded when they are asked for.

    Raises:
        BrokenImage: it cannot be decoded, here or in the block.
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
    except Exception as error:  # what a broken file makes Pillow raise has no common base
        raise BrokenImage(" ".join(str(error).split())) from error


def _check_camera_raw(data: bytes, image: Image.Image) -> None:
    """Refuse a camera's raw file under another name: Pillow takes it for a TIFF and finds the thumbnail."""
    if isinstance(image, TiffImageFile) and (
        data[8:10] == b"CR" or 0xC612 in image.tag_v2 or image.tag_v2.get(254) == 1
    ):
        raise ValueError("a camera's raw file or a thumbnail")


def _check_signs(image: Image.Image) -> None:
    """Refuse 8 bits with a sign: Pillow takes them for numbers without one, so dark and bright change places."""
    signed = isinstance(image, TiffImageFile) and 2 in np.ravel(image.tag_v2.get(SAMPLE_FORMAT, 1))
    if signed and not image.mode.startswith("I"):
        raise ValueError("pixels of 8 bits with a sign, which Pillow cannot read")


def without_metadata(data: bytes) -> bytes:
    """A PNG, JPEG or AVIF file without what changes no pixel: texts, EXIF, thumbnails; others as they are."""
    if data[4:8] == b"ftyp":
        head, mark, rest = data.partition(b"mdat")
        return head.replace(b"Exif", b"none") + mark + rest  # an item of a kind that nobody knows is passed over
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(b"\xff\xd8\xff") else data


def _bare_png(data: bytes) -> bytes:
    kept, offset = [data[:8]], 8
    while offset < len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        kind = data[offset + 4 : offset + 8]
        if kind[:1].isupper() or kind == b"tRNS":  # capital: needed to decode
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
    """An application's block or a comment, but not JFIF's or Adobe's, which say what the colours are."""
    return marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)


def in_mode(image: Image.Image, mode: str, white: int = DEEP) -> Image.Image:
    """Convert to 8 bits of colour or grey. What is transparent is laid over white; 16 bits are scaled, not cut off."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nothing says which value is white")
    if image.mode.startswith("I"):
        white = _own_white(image) or white
        deep = np.minimum(_deep(image), white)
        if (
            isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        ):  # white is 0; Pillow heeds that in 8 bits alone
            deep = white - deep
        image = Image.fromarray(((deep * 255 + white // 2) // white).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_invisible(image: Image.Image) -> bool:
    """Whether no pixel is seen at all, so that the picture becomes white whatever its colours are."""
    if not image.has_transparency_data or image.mode.startswith("I"):  # of 16 bits transparency is not applied
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[1] == 0


def _deep(image: Image.Image) -> np.ndarray:
    deep = np.asarray(image).astype(np.int64)
    if deep.min() < 0 or deep.max() > DEEP:
        raise ValueError("pixels of more than 16 bits")
    return deep


def _own_white(image: Image.Image) -> int | None:
    """The value that is white where the file says it by having bits of another number than 16."""
    bits = image.tag_v2.get(258, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return (1 << bits) - 1 if 8 < bits < 16 else None


def _is_cut_to_8_bits(image: ImageFile) -> bool:
    """Whether Pillow will keep the upper 8 of 16 bits, as it does of colours; to be asked before it decodes."""
    if image.mode.startswith("I") or not image.tile:
        return False
    tile = image.tile[0]
    return "16" in tile.codec_name or ";16" in str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _largest(image: Image.Image, cut: bool) -> int | None:
    """The largest value of a pixel, of 65535, where a file of 16 bits does not say which is white."""
    if cut:
        extrema = image.getextrema()
        return 257 * max(int(high) for _, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
    return int(_deep(image).max()) if image.mode.startswith("I") and not _own_white(image) else None


def _has_more(image: Image.Image) -> bool:
    """Whether only the first of several frames or pages was decoded."""
    try:
        return image.format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") and bool(getattr(image, "is_animated", False))
    except Exception:  # the frame that counts is decoded
        return False


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square at `size`: as if the whole were resized and then cropped, but without the whole in between."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
