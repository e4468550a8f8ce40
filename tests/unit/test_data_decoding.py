"""One image file: what is taken for one, what becomes of its pixels, and what is beside the point for them."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from torchvision.transforms.v2 import functional as reference

from smallbatch.data.decoding import FORMAT_BY_EXTENSION, FORMATS, BrokenImage, decoded, kind_of_non_image

SIZE = 8


@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (48, 120)])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_it_is_resize_of_the_shorter_side_and_centre_crop(shape, mode, channels, tmp_path):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = np.stack([rows * 2, columns * 2, rows + columns], 2) % 200
    picture = Image.fromarray(waves.astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "picture.png")
    ours = decoded(tmp_path / "picture.png", 32, mode).pixels
    theirs = np.asarray(reference.center_crop(reference.resize(picture, [32]), [32])).reshape(32, 32, channels)
    assert ours.shape == (channels, 32, 32)
    # Cutting before resizing differs from cutting after it by half a pixel at the most.
    difference = np.abs(ours.transpose(1, 2, 0).astype(int) - theirs)
    assert np.median(difference) <= 2


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def colours() -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", (16, 16), (200, 0, 0))
    image.paste((0, 0, 200), (8, 0, 16, 16))
    return image


SAVED = ["JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF", "DIB", "ICO", "ICNS", "QOI", "DDS"]
SAVED += ["SGI", "PCX"]


@pytest.mark.parametrize("file_format", SAVED)
@pytest.mark.parametrize("ending", ["", ".jpg", ".dat", ".HEIC"])
def test_images_are_taken_by_content_whatever_their_name(tmp_path: Path, file_format: str, ending: str) -> None:
    """AVIF, JPEG 2000 and the like as phones and browsers name them; DIB has no sign of its own but its header."""
    file = tmp_path / f"picture{ending}"
    image = colours().resize((32, 32), Image.Resampling.NEAREST)
    file.write_bytes(encoded(image, file_format))
    assert kind_of_non_image(file) is None
    found = decoded(file, SIZE, "RGB").pixels.astype(int)
    np.testing.assert_allclose(found[:, 4, 1], (200, 0, 0), atol=40)
    np.testing.assert_allclose(found[:, 4, 6], (0, 0, 200), atol=40)


@pytest.mark.parametrize("ending", ["tga", "TGA"])
def test_formats_without_a_sign_go_by_name(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"picture.{ending}"
    file.write_bytes(encoded(colours(), FORMAT_BY_EXTENSION[f".{ending.lower()}"]))
    assert kind_of_non_image(file) is None
    assert decoded(file, SIZE, "RGB").pixels[:, 0, 0].tolist() == [200, 0, 0]


def test_no_format_is_read_by_another_program() -> None:
    """Ghostscript, a printer's metafile, and the stubs that wait for a handler."""
    assert not {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"} & {*FORMATS, *FORMAT_BY_EXTENSION.values()}
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
OTHERS = {
    "IMG.HEIC": (HEIC, "HEIC files, which Pillow cannot read"),
    "IMG": (HEIC, "HEIC files, which Pillow cannot read"),
    "IMG.heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200), "HEIC files, which Pillow cannot read"),
    "clip.MP4": (b"\0\0\0\x18ftypisom" + bytes(200), ".mp4 files"),
    "list.txt": (b"BMW\nAudi\n", ".txt files"),
    "notes.md": (b"P1 is the first paper, P2 is the second\n", ".md files"),
    "code.h": (b"#define x 1\n", ".h files"),
    "plot.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", ".eps files"),
    "empty": (b"", "files of no known kind"),
    "a.2024-11-26 final": (b"x", "files of no known kind"),
    "raw.NEF": (b"II*\0\x08\0\0\0", "camera raw files"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_no_images(tmp_path: Path, name: str) -> None:
    content, kind = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert kind_of_non_image(tmp_path / name) == kind


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.crdownload"])
def test_an_image_cut_short_is_broken_whatever_its_name(tmp_path: Path, name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for file_format, length in (("JPEG", 2000), ("JPEG", 20), ("PNG", 5000), ("PNG", 20)):
        (tmp_path / name).write_bytes(encoded(noise, file_format)[:length])
        assert kind_of_non_image(tmp_path / name) is None
        with pytest.raises(BrokenImage):
            decoded(tmp_path / name, SIZE, "RGB")


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff", b"\xff\xd8\xff\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\xff"]
)
def test_the_mere_beginning_of_an_image_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BrokenImage):
        decoded(tmp_path / "a", SIZE, "RGB")


def test_heic_under_another_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(HEIC)
    with pytest.raises(BrokenImage, match="HEIC, which Pillow cannot read"):
        decoded(tmp_path / "a.jpg", SIZE, "RGB")


def tiff(pixels: bytes, bits: int, tags: dict[int, int] | None = None, side: int = SIZE) -> bytes:
    """A grey TIFF file written by hand: one strip without compression."""
    wanted = {256: side, 257: side, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: len(pixels)}
    wanted |= tags or {}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(wanted.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(wanted)) + entries + bytes(4)


def deep(value: int) -> bytes:
    return np.full((SIZE, SIZE), value, "<u2").tobytes()


@pytest.mark.parametrize("tag", [{254: 1}, {0xC612: 0x0401}])
def test_the_thumbnail_in_a_camera_s_raw_file_is_no_image(tmp_path: Path, tag: dict[int, int]) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(deep(0), 16))
    assert decoded(tmp_path / "a.tif", SIZE, "L").pixels.max() == 0
    (tmp_path / "a.tif").write_bytes(tiff(deep(0), 16, tag))
    with pytest.raises(BrokenImage, match="a camera's raw file or a thumbnail"):
        decoded(tmp_path / "a.tif", SIZE, "L")


@pytest.mark.parametrize("file_format", [1, 2])
def test_pixels_of_8_bits_with_a_sign_are_not_taken_for_others(tmp_path: Path, file_format: int) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bytes(SIZE * SIZE), 8, {339: file_format}))
    if file_format == 1:
        assert decoded(tmp_path / "a.tif", SIZE, "L").pixels.max() == 0
        return
    with pytest.raises(BrokenImage, match="pixels of 8 bits with a sign"):
        decoded(tmp_path / "a.tif", SIZE, "L")


def twelve_bits(value: int) -> bytes:
    """Two pixels in three bytes."""
    return ((value << 12 | value).to_bytes(3)) * (SIZE * SIZE // 2)


@pytest.mark.parametrize(
    ("content", "white", "grey", "largest"),
    [
        (tiff(deep(4095), 16), 65535, 16, 4095),
        (tiff(deep(4095), 16), 4095, 255, 4095),
        (tiff(deep(2048), 16), 4095, 128, 2048),
        (tiff(deep(5000), 16), 4095, 255, 5000),
        (tiff(deep(65535), 16), 65535, 255, 65535),
        (tiff(deep(65535 - 257), 16, {262: 0}), 65535, 1, 65278),
        (tiff(twelve_bits(4095), 12), 65535, 255, None),
        (tiff(twelve_bits(2048), 12), 65535, 128, None),
        (encoded(Image.fromarray(np.full((SIZE, SIZE), 4095, np.uint16)), "PNG"), 4095, 255, 4095),
        (b"P2 1 1 4095 4095\n", 65535, 255, 65535),
        (encoded(Image.new("L", (SIZE, SIZE), 16), "PNG"), 4095, 16, None),
    ],
    ids=["12 in 16", "told", "half", "beyond", "16", "white is 0", "12", "12 half", "PNG", "PGM says it", "8"],
)
def test_greys_of_more_than_8_bits(tmp_path: Path, content: bytes, white: int, grey: int, largest: int | None) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    found = decoded(tmp_path / "a.tif", SIZE, "L", white)
    assert (found.pixels == grey).all()
    assert found.largest == largest


def deep_colours(value: int, side: int = SIZE) -> bytes:
    """A PNG file of 16 bits a colour, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(">H", value) * 3 * SIZE) * SIZE
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_cut_by_pillow_and_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_colours(4095))
    found = decoded(tmp_path / "a.png", SIZE, "RGB")
    assert (found.pixels == 15).all()
    assert found.largest == 15 * 257
    with pytest.raises(BrokenImage, match="`white` cannot be applied"):
        decoded(tmp_path / "a.png", SIZE, "RGB", 4095)


def with_exif(block: bytes, file_format: str) -> bytes:
    image = Image.new("L", (SIZE, SIZE), 0)
    image.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    return encoded(image, file_format, exif=block, **({"quality": 100} if file_format == "JPEG" else {}))


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """A block of (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


TURN = (0x0112, 3, 1, 6)
ODD = {
    "nothing": b"",
    "no header": b"Exif\0\0what?",
    "no TIFF": b"Exif\0\0" + bytes(100),
    "cut short": exif(TURN)[:-7],
    "a text": exif((0x0112, 2, 4, 0x36363636)),
    "no such turn": exif((0x0112, 3, 1, 77)),
    "far away": exif((0x010F, 2, 4_000_000, 4_000_000_000)),
    "unknown type": exif((0x0112, 99, 1, 6)),
    "GPS nowhere": exif((0x8825, 4, 1, 4_000_000_000)),
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_exif_block_does_not_break_an_image(tmp_path: Path, kind: str, file_format: str) -> None:
    try:
        content = with_exif(ODD[kind], file_format)
    except (SyntaxError, TypeError):
        pytest.skip("Pillow does not write such a block in this format")
    (tmp_path / "a").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = decoded(tmp_path / "a", SIZE, "L").pixels[0]
    assert found[:, 0].max() < 30, "it is not turned"
    assert found[:, -1].min() > 220


def test_damaged_exif_in_an_avif_leaves_its_pixels(tmp_path: Path) -> None:
    content = with_exif(exif((0x0131, 3, 1, 1)), "AVIF")
    assert content.count(b"II*\0") == 1
    (tmp_path / "a").write_bytes(content.replace(b"II*\0", b"oops"))
    found = decoded(tmp_path / "a", SIZE, "L")
    assert found.remarks == ("pictures without their metadata, which are damaged or too large",)
    assert found.pixels[0, :, 0].max() < 30
    assert found.pixels[0, :, -1].min() > 220


@pytest.mark.parametrize("beside", [(0x9286, 7, 4, 0), (0x829A, 5, 1, 4_000_000_000), (0x8769, 4, 1, 4_000_000_000)])
def test_odd_tags_beside_the_orientation_do_not_hide_it(tmp_path: Path, beside: tuple[int, ...]) -> None:
    (tmp_path / "a").write_bytes(with_exif(exif(TURN, beside), "JPEG"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = decoded(tmp_path / "a", SIZE, "L").pixels[0]
    assert found[0].max() < 30
    assert found[-1].min() > 220


def test_texts_in_a_png_do_not_break_it_however_long(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    for number in range(3):
        texts.add_text(f"parameters {number}", "x" * (2 << 20), zip=True)
    (tmp_path / "a.png").write_bytes(encoded(colours(), "PNG", pnginfo=texts))
    found = decoded(tmp_path / "a.png", SIZE, "RGB")
    assert found.pixels[:, 0, 0].tolist() == [200, 0, 0]
    assert found.remarks == ("pictures without their metadata, which are damaged or too large",)


def test_damage_in_metadata_is_reported_and_in_pixels_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(colours(), "PNG", dpi=(72, 72)))
    content[content.index(b"pHYs") + 5] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    found = decoded(tmp_path / "a.png", SIZE, "RGB")
    assert found.pixels[:, 0, 0].tolist() == [200, 0, 0]
    assert found.remarks == ("pictures without their metadata, which are damaged or too large",)
    content[content.index(b"IDAT") + 8] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BrokenImage):
        decoded(tmp_path / "a.png", SIZE, "RGB")


def test_what_a_jpeg_says_of_further_pictures_cannot_break_it(tmp_path: Path) -> None:
    """A phone's block of depth maps and the like."""
    content = encoded(colours(), "JPEG", quality=100)
    block = b"MPF\0" + b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0xB001, 3, 99, 4_000_000_000)
    marked = content[:2] + b"\xff\xe2" + struct.pack(">H", len(block) + 2) + block + content[2:]
    (tmp_path / "a.jpg").write_bytes(marked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = decoded(tmp_path / "a.jpg", SIZE, "RGB").pixels
    (tmp_path / "b.jpg").write_bytes(content)
    assert (found == decoded(tmp_path / "b.jpg", SIZE, "RGB").pixels).all()


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames_is_taken_and_reported(tmp_path: Path, file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    (tmp_path / "a").write_bytes(encoded(frames[0], file_format, save_all=True, append_images=frames[1:]))
    found = decoded(tmp_path / "a", SIZE, "RGB")
    np.testing.assert_allclose(found.pixels[:, 0, 0], (200, 0, 0), atol=10)
    assert found.remarks == ("pictures whose further frames or pages are not used",)
    (tmp_path / "a").write_bytes(encoded(frames[0], file_format))
    assert decoded(tmp_path / "a", SIZE, "RGB").remarks == ()


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_colours(0, 50_000))
    with pytest.raises(BrokenImage, match="exceeds limit") as caught:
        decoded(tmp_path / "a.png", SIZE, "RGB")
    assert "\n" not in str(caught.value)
