"""Photos: decoding and crops against Pillow and torchvision, and the loader that decodes ahead."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import a_run, made_data
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import photos, prepared
from smallbatch.data.photos import MEAN, STD, Photos, decoded, resized_crops
from smallbatch.runs.records import METRICS_FILE
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Setting
from smallbatch.training.batches import BatchLoader, random_stream
from smallbatch.training.pack import train_pack

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

CPU = torch.device("cpu")
RED = (200, 30, 60)


def picture(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def file_of(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 6 validation photos of many sizes in two classes, prepared."""
    root = tmp_path_factory.mktemp("net")
    for split, count in (("train", 20), ("val", 6)):
        for number in range(count):
            path = root / split / f"n{number % 2}" / f"{number:02}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = "L" if number % 5 == 4 else "RGB"
            path.write_bytes(file_of(picture(number, (60 + 9 * number, 90 + 7 * (number * 5 % 11)), mode)))
    settings = {"source": "imagenet", "path": str(root), "label": "made"}
    data.prepare("made", settings, root / "prepared", root / "downloads")
    return root / "prepared"


def a_setting(**more) -> Setting:
    """A setting with random crops and flips, unless it is said otherwise."""
    values = {"data": "made", "model": "resnet8", "weight_decay": 1e-4, "epochs": 1}
    return Setting(**values | {"augment_resized": True, "augment_flip": True} | more)


PLAIN = {"augment_resized": False, "augment_flip": False}


def a_loader(folder: Path, setting: Setting | None = None, batch_size: int = 4) -> BatchLoader:
    return BatchLoader(prepared.read(folder), setting or a_setting(), batch_size, CPU)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_decoded_as_by_pillow(mode: str) -> None:
    content = file_of(picture(1, (50, 37), mode))
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded(content).numpy(), expected)


def test_other_formats_are_taken_and_what_is_transparent_becomes_white() -> None:
    image = Image.new("RGBA", (3, 2), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    pixels = decoded(file_of(image, "PNG"))
    assert pixels.shape == (3, 2, 3)
    assert pixels[:, 0, 0].tolist() == list(RED) and pixels[:, 0, 1].tolist() == [255, 255, 255]


def test_photos_of_one_colour_keep_it() -> None:
    for size in ((1, 1), (2, 500), (300, 224)):
        image = decoded(file_of(Image.new("RGB", size, RED), "PNG"))
        square = photos.centre_square(image)
        assert square.shape == (3, 224, 224) and square.flatten(1).unique(dim=1).flatten().tolist() == list(RED)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (120, 90)])
def test_pixels_are_those_of_torchvision_on_pillow_images(size: tuple[int, int], tmp_path: Path) -> None:
    image = picture(2, size)
    (tmp_path / "a.png").write_bytes(file_of(image, "PNG"))
    content = (tmp_path / "a.png").read_bytes()
    row = (b"a.png", b"", 0, len(content), size[1], size[0], hashlib.sha256(content).digest())
    found = Photos(tmp_path, np.array([row], prepared.index_type(5, 0)))
    square = reference.center_crop(reference.resize(image, [256]), [224])
    crop = reference.resized_crop(image, 11, 7, 50, 60, [224, 224])
    for ours, theirs in ((found.pixels(0, None), square), (found.pixels(0, [11, 7, 50, 60]), crop)):
        assert (ours.int() - reference.pil_to_tensor(theirs).int()).abs().max() <= 1, "more than rounding"


def test_random_crops_lie_in_the_photo_and_have_the_area_and_aspect_asked_for() -> None:
    sizes = torch.tensor([[375, 500], [500, 375], [300, 300], [900, 1000]]).repeat(500, 1)
    top, left, height, width = resized_crops(sizes, random_stream(1, "augmentation")).double().unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= sizes[:, 0]).all() and (left + width <= sizes[:, 1]).all()
    area, aspect = height * width / sizes.prod(1), width / height
    assert area.min() > 0.079 and area.max() <= 1.001 and aspect.min() > 0.745 and aspect.max() < 1.345
    assert aspect.log().mean().abs() < 0.02, "as often upright as lying"
    assert {0} < set(top.tolist()) and top.max() > 300


def test_random_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    photo = torch.empty(3, 300, 400)
    ours = resized_crops(torch.tensor([[300, 400]]).repeat(4000, 1), random_stream(1, "augmentation")).double()
    draw = RandomResizedCrop.get_params
    theirs = torch.tensor([draw(photo, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]).double()
    for column in range(4):  # top, left, height, width: means within 4 standard errors, and spreads
        error = theirs[:, column].std() / 4000**0.5
        assert (ours[:, column].mean() - theirs[:, column].mean()).abs() < 4 * 2**0.5 * error
        assert ours[:, column].std() == pytest.approx(theirs[:, column].std().item(), rel=0.08)


@pytest.mark.parametrize("size", [(4, 1000), (1000, 4), (1, 1), (301, 3)])
def test_what_no_crop_fits_is_cropped_in_the_centre_as_by_torchvision(size: tuple[int, int]) -> None:
    theirs = RandomResizedCrop.get_params(torch.empty(3, *size), [2.0, 2.0], [3 / 4, 4 / 3])  # never fits
    assert photos.resized_crops(torch.tensor([size]), torch.Generator().manual_seed(1)).tolist() == [list(theirs)]


def test_a_photo_too_narrow_for_every_draw_takes_the_centre() -> None:
    # A hundredth as high as wide: 8 % of the area at the widest aspect is 2.4 times as high as the photo.
    assert resized_crops(torch.tensor([[10, 1000]]), random_stream(1, "augmentation")).tolist() == [[0, 493, 10, 13]]


def test_blocks_are_in_order_whatever_is_decoded_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepared.read(folder).train.images
    places = torch.arange(20).flip(0)
    boxes = resized_crops(found.sizes[places], random_stream(1, "augmentation"))
    expected = torch.stack([found.pixels(int(p), box.tolist()) for p, box in zip(places, boxes, strict=True)])
    for ahead in (0, 5, 1024):
        monkeypatch.setattr(photos, "AHEAD", ahead)
        for size in (1, 3, 20):
            requests = zip(places.split(size), boxes.split(size), strict=True)
            assert torch.equal(torch.cat(list(found.blocks(requests))), expected)


def test_what_is_decoded_ahead_is_bounded_and_dropped_when_nobody_asks(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(photos, "AHEAD", 6)
    found, asked = prepared.read(folder).train.images, []

    def requests():
        for part in torch.arange(20).split(4):
            asked.append(part)
            yield part, None

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(photos, "_threads", lambda: pool)
        blocks = found.blocks(requests())
        next(blocks)
        assert len(asked) == 3, "one block of 4 served and two, 6 images or more, under way"
        next(blocks)
        assert len(asked) == 4
        blocks.close()
        assert pool.submit(len, asked).result() == 4


@pytest.mark.parametrize(("damage", "said"), [("cut", "ends after"), ("gone", "cannot be read"), ("other", "changed")])
def test_a_photo_that_changed_since_is_named_at_training_time(damage: str, said: str, tmp_path: Path) -> None:
    root = tmp_path / "net"
    for split in ("train", "val"):
        for number in range(4):
            path = root / split / f"n{number % 2}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file_of(picture(number, (40, 30))))
    data.prepare("made", {"source": "imagenet", "path": str(root), "label": "made"}, tmp_path / "made", tmp_path)
    loader = a_loader(tmp_path / "made")
    victim = root / "train" / "n1" / "3.JPEG"
    whole = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        other = file_of(picture(9, (8, 6))).ljust(len(whole), b"\0")
        victim.write_bytes(whole[:-40] if damage == "cut" else other[: len(whole)])
    with pytest.raises(UserError) as caught:
        loader.batches(loader.plan([1], 0), 0, 1)
    message = str(caught.value)
    assert message.startswith(f"{victim}: ") and "\n" not in message
    assert said in message


def test_batches_do_not_depend_on_where_one_begins(folder: Path) -> None:
    loader = a_loader(folder)
    plan = loader.plan([1, 2], 3)
    whole = loader.batches(plan, 0, 5)
    assert whole.images.shape == (5, 4, 6, 224, 224) and whole.images.dtype == torch.float32
    for first, last in ((0, 2), (2, 4), (4, 5), (1, 2), (3, 5)):
        part = loader.batches(plan, first, last)
        assert torch.equal(part.images, whole.images[first:last])
        assert torch.equal(part.labels, whole.labels[first:last])
    again = a_loader(folder)
    assert torch.equal(again.batches(again.plan([1, 2], 3), 2, 4).images, whole.images[2:4])


def test_a_lane_sees_the_same_whatever_its_company(folder: Path) -> None:
    loader = a_loader(folder)
    plan = loader.plan([2, 1, 2], 0)
    together = loader.batches(plan, 0, 2)
    alone = loader.batches(loader.plan([1], 0), 0, 2)
    assert torch.equal(together.images[:, :, 3:6], alone.images)
    assert torch.equal(together.labels[:, :, 1:2], alone.labels)
    assert torch.equal(together.images[:, :, :3], together.images[:, :, 6:])
    assert torch.equal(loader.batches(plan.select([1]), 0, 2).images, alone.images)
    assert not torch.equal(loader.batches(loader.plan([1], 1), 0, 2).images, alone.images)


def test_lanes_of_one_seed_decode_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, reads, read = a_loader(folder), [], Photos.read
    monkeypatch.setattr(Photos, "read", lambda self, place: reads.append((self, place)) or read(self, place))
    loader.batches(loader.plan([1, 1, 1], 0), 0, 5)
    # The threads may still be at what an earlier test no longer asks for.
    assert sorted(place for photos, place in reads if photos is loader.train_images.photos) == list(range(20))


def test_a_batch_is_decoded_cropped_flipped_and_normalised(folder: Path) -> None:
    loader = a_loader(folder)
    plan = loader.plan([1], 0)
    assert 0 < plan.flipped.sum() < 20
    images = loader.batches(plan, 0, 5).images.flatten(0, 1)
    found, mean, std = loader.train_images.photos, *(torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    rows = zip(images, plan.order.flatten(), plan.boxes.flatten(0, 2), plan.flipped.flatten(), strict=True)
    for image, place, box, flipped in rows:
        expected = (found.pixels(int(place), box.tolist()) / 255 - mean) / std
        torch.testing.assert_close(image, expected.flip(2) if flipped else expected, rtol=1e-5, atol=1e-5)


def test_without_random_crops_training_photos_are_prepared_as_validation_photos(folder: Path) -> None:
    loader = a_loader(folder, a_setting(**PLAIN))
    plan = loader.plan([1], 0)
    assert plan.boxes is None and plan.flipped is None
    first = loader.train_images.photos.pixels(int(plan.order[0, 0, 0]), None)
    assert torch.equal(loader.batches(plan, 0, 1).images[0, 0], loader._normalised(first))


def test_validation_photos_come_in_order_whatever_the_size(folder: Path) -> None:
    loader = a_loader(folder)
    parts = list(loader.test_batches(4))
    assert [len(labels) for _, labels in parts] == [4, 2]
    whole, labels = next(loader.test_batches(100))
    assert torch.equal(torch.cat([images for images, _ in parts]), whole)
    assert labels.tolist() == loader.test_labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["photos", "arrays"])
def test_a_tenth_of_the_training_images_in_use_is_held_out(kind: str, folder: Path, tmp_path: Path) -> None:
    chosen = folder if kind == "photos" else made_data(tmp_path / "made", train=20)
    setting = a_setting(**PLAIN, selection="validation")
    loader = a_loader(chosen, setting, 3)
    assert loader.steps == 6
    trained_on = set(loader.plan([1], 0).order.flatten().tolist())
    held_out = loader.held_out.tolist()
    assert len(trained_on) == 18 and len(held_out) == 2 and not trained_on & set(held_out)
    assert a_loader(chosen, setting, 1).held_out.tolist() == held_out, "the same for every run"
    images, labels = next(loader.validation_batches(10))
    assert labels.tolist() == loader.train_labels[held_out].tolist()
    plain = a_loader(chosen, a_setting(**PLAIN), 20)
    plan = plain.plan([1], 0)
    every = dict(zip(plan.order.flatten().tolist(), plain.batches(plan, 0, 1).images[0], strict=True))
    assert torch.equal(images, torch.stack([every[place] for place in held_out]))
    some = a_loader(chosen, a_setting(**PLAIN, selection="validation", train_images=10), 1)
    assert some.steps == 9 and len(some.held_out) == 1
    in_use = set(a_loader(chosen, a_setting(**PLAIN, train_images=10), 1).subset.tolist())
    assert set(some.subset.tolist()) | set(some.held_out.tolist()) == in_use


def test_nothing_is_held_out_unless_asked_for(folder: Path) -> None:
    loader = a_loader(folder)
    assert loader.steps == 5 and list(loader.validation_batches(4)) == []


def test_padding_photos_and_cropping_arrays_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resized_crop and flip on photos"):
        a_loader(folder, a_setting(**PLAIN, augment_pad=4))
    with pytest.raises(UserError, match="pad and flip on images of one size"):
        a_loader(made_data(tmp_path / "made"), a_setting())


@pytest.mark.slow
def test_a_run_on_photos_trains_and_its_numbers_do_not_depend_on_what_is_decoded_ahead(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(model="resnet50", norm="batch", weight_decay=1e-4, epochs=1, augment_flip=True, train_images=4)
    metrics = []
    for ahead in (0, 1024):
        monkeypatch.setattr(photos, "AHEAD", ahead)
        assert train_pack([run], folder, tmp_path / str(ahead)) == 1
        found = RunStore(tmp_path / str(ahead)).folder(run, prepared.read(folder).meta.fingerprint)
        metrics.append((found / METRICS_FILE).read_bytes())
    assert metrics[0] == metrics[1]
