"""Images of a folder: what becomes of their pixels, and of what is broken."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import SIZE, divided, flat, pets, pixels, prepare, refused, save, unreadable
from PIL import Image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat(77, "L"), (77, 77, 77)),
        (flat((10, 20, 30)), (10, 20, 30)),
        (flat(1, "1"), (255, 255, 255)),
        (flat((10, 20, 30, 255), "RGBA"), (10, 20, 30)),
        (flat((10, 20, 30, 0), "RGBA"), (255, 255, 255)),
        (flat((0, 0), "LA"), (255, 255, 255)),
        (flat((10, 200, 30)).quantize(4), (10, 200, 30)),
        (Image.fromarray(np.full((SIZE, SIZE), 257 * 100, np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.full((SIZE, SIZE), 65535, np.uint16)), (255, 255, 255)),
    ],
    ids=["L", "RGB", "1", "opaque", "transparent", "grey transparent", "palette", "16 bit", "16 bit white"],
)
def test_modes_become_colours(tmp_path: Path, image: Image.Image, expected: tuple[int, ...]) -> None:
    found = pixels(image, tmp_path)
    assert (found == np.array(expected)[:, None, None]).all()


def test_half_transparent_is_halfway_to_white(tmp_path: Path) -> None:
    found = pixels(flat((0, 0, 200, 128), "RGBA"), tmp_path)
    np.testing.assert_allclose(found[:, 0, 0], (127, 127, 227), atol=1)


def test_cmyk_becomes_colours_and_grey(tmp_path: Path) -> None:
    cyan = flat((255, 0, 0, 0), "CMYK")
    np.testing.assert_allclose(pixels(cyan, tmp_path, "a.jpg", quality=100)[:, 0, 0], (0, 255, 255), atol=3)
    grey = pixels(cyan, tmp_path, "a.jpg", mode="L", quality=100)
    np.testing.assert_allclose(grey[0, 0, 0], 0.587 * 255 + 0.114 * 255, atol=3)


def test_deep_tiff_and_pgm_are_scaled_too(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((SIZE, SIZE), 257 * 90, np.uint16))
    for name in ("a.tif", "a.pgm"):
        assert (pixels(deep, tmp_path / name, name, mode="L") == 90).all()


def test_a_colour_becomes_grey_by_luminance(tmp_path: Path) -> None:
    assert (pixels(flat((255, 0, 0)), tmp_path, mode="L") == 76).all()


def halves(width: int, height: int) -> Image.Image:
    """Left half black, right half white."""
    image = flat(0, "L", (width, height))
    image.paste(255, (width // 2, 0, width, height))
    return image


def test_the_centre_of_a_wide_and_of_a_high_image_is_kept(tmp_path: Path) -> None:
    stripe = np.zeros((SIZE, 5 * SIZE), np.uint8)
    stripe[:, 2 * SIZE : 3 * SIZE] = 200
    for name, array in (("wide", stripe), ("high", stripe.T)):
        found = pixels(Image.fromarray(array), tmp_path / name, mode="L")
        assert (found == 200).all()


def test_resizing_averages_instead_of_picking(tmp_path: Path) -> None:
    board = np.indices((10 * SIZE, 10 * SIZE)).sum(0) % 2 * 255
    found = pixels(Image.fromarray(board.astype(np.uint8)), tmp_path, mode="L")
    np.testing.assert_allclose(found, 127.5, atol=2)


def test_resizing_is_that_of_the_whole_followed_by_the_crop(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4 * SIZE, 8 * SIZE, 3), np.uint8)
    whole = Image.fromarray(noise).resize((2 * SIZE, SIZE), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[:, SIZE // 2 : SIZE // 2 + SIZE].transpose(2, 0, 1)
    found = pixels(Image.fromarray(noise), tmp_path)
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 5000), (500, 333)])
def test_every_size_is_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    assert (pixels(flat((1, 2, 3), size=size), tmp_path) == np.array([1, 2, 3])[:, None, None]).all()


def test_the_camera_s_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: what is left comes to the top
    found = pixels(halves(SIZE, SIZE), tmp_path, "a.jpg", mode="L", exif=exif, quality=100)
    assert found[0, :3].max() < 20
    assert found[0, -3:].min() > 235


def test_damaged_metadata_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pillow only warns of them, and then knows nothing of a turn that they may have said."""
    root, exif = divided(tmp_path / "photos"), Image.Exif()
    exif[0x0112] = 6
    save(flat(1), root / "train/cat/turned.jpg", exif=exif)
    content = (root / "train/cat/turned.jpg").read_bytes()
    assert "metadata" not in caplog.text
    place = content.index(b"Exif\0\0") + 10
    (root / "train/cat/turned.jpg").write_bytes(content[:place] + b"\xff\xff\xff\0" + content[place + 4 :])
    prepare(root)
    assert "1 picture with damaged metadata, which may have said how to turn them" in caplog.text


def broken_png_header() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(5)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def floats() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(file, "TIFF")
    return file.getvalue()


def deeper_than_16_bits() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(file, "TIFF")
    return file.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "header": broken_png_header(),
    "eps": EPS,
    "floats": floats(),
    "32 bit": deeper_than_16_bits(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_stops(tmp_path: Path, kind: str) -> None:
    root = divided(tmp_path / "photos")
    (root / "train/dog/01.png").write_bytes(BROKEN[kind])
    refused(root, "train/dog/01.png is a broken image (", "; `broken_images: skip` leaves such out")


def test_postscript_never_reaches_its_interpreter(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    (root / "train/dog/01.png").write_bytes(EPS)
    refused(root, "train/dog/01.png is a broken image (none of the formats JPEG, PNG")


def test_a_truncated_image_stops_and_the_first_in_order_is_named(tmp_path: Path) -> None:
    root = unreadable(divided(tmp_path / "photos"), "train/dog/02.png")
    refused(unreadable(root), "train/cat/01.png is a broken image (")


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_skipped_if_wanted_and_reported(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = unreadable(divided(tmp_path / "photos"))
    (root / "train/dog/00.png").write_bytes(BROKEN[kind])
    with caplog.at_level(logging.WARNING):
        found = prepare(root, mode="L", broken_images="skip")
    assert found.train.images[:, 0, 0, 0].tolist() == [0, 2, 101, 102]
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert (found.meta.train, found.meta.test) == (4, 4)
    for part in ("train/cat/01.png", "train/dog/00.png", "left out 2 broken images of 6 in the train split"):
        assert part in caplog.text


def test_skipping_does_not_move_other_images_between_splits(tmp_path: Path) -> None:
    root = pets(tmp_path / "photos", 10)
    before = prepare(root, mode="L", test_fraction=0.3).test.images[:, 0, 0, 0].tolist()
    (root / f"cat/{before[0]:02}.png").write_bytes(b"")
    after = prepare(root, mode="L", test_fraction=0.3, broken_images="skip").test.images[:, 0, 0, 0].tolist()
    assert after == before[1:]


def test_a_class_of_broken_images_alone_is_refused(tmp_path: Path) -> None:
    root = divided(tmp_path / "photos")
    for file in (root / "test" / "dog").iterdir():
        file.write_bytes(b"")
    refused(root, "class dog: all its images in the test split are broken", broken_images="skip")


def dark(root: Path, highest: int, dtype: type = np.uint16) -> Path:
    """Two classes of 16 bits whose largest value is this one, in the test split."""
    for split, top in (("train", highest // 2), ("test", highest)):
        for name in ("cat", "dog"):
            save(Image.fromarray(np.full((SIZE, SIZE), top, dtype)), root / split / name / "0.png")
    return root


@pytest.mark.parametrize("highest", [0, 1023, 4095, 16383])
def test_fewer_than_16_bits_in_files_of_16_are_refused_unless_white_is_known(tmp_path: Path, highest: int) -> None:
    root = dark(tmp_path / "photos", highest)
    refused(root, "white: None is not allowed; allowed: the value that is white", f"no pixel is above {highest}")
    assert prepare(root, mode="L", white=max(1, highest)).test.images.max() == (255 if highest else 0)
    assert prepare(root, mode="L", white=65535).test.images.max() == round(highest / 257)


def test_files_that_use_16_bits_need_no_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepare(dark(tmp_path / "photos", 16384))
    assert "the largest value in images of 16 bits is 16384; white is 65535" in caplog.text
    assert "16 bits" not in caplog.text.replace("images of 16 bits is 16384", "")


def test_a_white_below_the_largest_value_is_refused(tmp_path: Path) -> None:
    refused(dark(tmp_path / "photos", 5000), "white: 4095 is not allowed; allowed: 5000 or more", white=4095)


def test_white_means_nothing_to_files_of_8_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = divided(tmp_path / "photos")
    with caplog.at_level(logging.INFO):
        assert prepare(root).meta.fingerprint == prepare(root, white=4095).meta.fingerprint
    assert "16 bits" not in caplog.text


def test_remarks_on_images_are_counted_on_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = divided(tmp_path / "photos")
    for number in range(2):
        save(flat(0), root / f"train/cat/{number}.gif", save_all=True, append_images=[flat(255)])
    prepare(root)
    assert "2 pictures whose further frames or pages are not used\n" in caplog.text


def test_wholly_transparent_pictures_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, seen = divided(tmp_path / "photos"), flat((9, 9, 9, 0), "RGBA")
    seen.putpixel((3, 3), (9, 9, 9, 1))
    save(seen, root / "train/cat/seen.png")
    save(Image.fromarray(np.full((SIZE, SIZE), 60_000, np.uint16)), root / "train/cat/deep.png", transparency=60_000)
    prepare(root)
    assert "wholly transparent" not in caplog.text
    save(flat((9, 9, 9, 0), "RGBA"), root / "train/cat/a.png")
    prepare(root)
    assert "photos: 1 wholly transparent picture (white)\n" in caplog.text
    save(flat((9, 0), "LA"), root / "test/cat/b.png")
    save(flat((1, 2, 3)), root / "train/dog/c.png", transparency=(1, 2, 3))
    prepare(root)
    assert "photos: 3 wholly transparent pictures (white)\n" in caplog.text
