"""ImageNet where it lies, photos decoded as torchvision does, and ResNet-50."""

import io
import tarfile

import numpy as np
import pytest
import torch
from conftest import a_run
from PIL import Image
from scipy.io import savemat
from torchvision import models, transforms

from smallbatch.data import check_augment, imagenet, known_train_images, prepare, prepared
from smallbatch.data.photos import Photos, crop_box
from smallbatch.errors import UserError
from smallbatch.models import build
from smallbatch.study import Setting
from smallbatch.training.engine import LaneTraining
from smallbatch.training.feed import Feed
from smallbatch.training.photo_feed import PhotoFeed, feed_of

WNIDS = ("n01440764", "n02084071")
CPU = torch.device("cpu")


def photo(number: int) -> bytes:
    """A JPEG of noise, of a size of its own; one in four is grey."""
    draws = np.random.default_rng(number)
    shape = (40 + 7 * number, 60 + 3 * number) if number % 4 == 3 else (40 + 7 * number, 60 + 3 * number, 3)
    content = io.BytesIO()
    Image.fromarray(draws.integers(0, 255, shape, dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


TRAIN = {wnid: {f"{wnid}_{i}.JPEG": photo(4 * place + i) for i in range(4)} for place, wnid in enumerate(WNIDS)}
# The truth does not follow the names.
TEST = {f"ILSVRC2012_val_0000000{i}.JPEG": (WNIDS[(i + 1) % 2], photo(20 + i)) for i in range(1, 5)}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tar_of(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            add(tar, name, data)
    return content.getvalue()


def devkit(folder) -> None:
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O")]
    # Numbers that do not follow the order of the names either.
    table = np.array([(2, WNIDS[0]), (1, WNIDS[1]), (3, "n99999999")], kinds)
    content = io.BytesIO()
    savemat(content, {"synsets": table})
    numbers = {WNIDS[0]: 2, WNIDS[1]: 1}
    truth = "".join(f"{numbers[TEST[name][0]]}\n" for name in sorted(TEST))
    with tarfile.open(folder / imagenet.DEVKIT, "w:gz") as tar:
        add(tar, imagenet.CLASS_TABLE, content.getvalue())
        add(tar, imagenet.TRUTH, truth.encode())


def archives(folder):
    folder.mkdir()
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in TRAIN.items()}
    (folder / imagenet.TRAIN_TAR).write_bytes(tar_of(inner))
    (folder / imagenet.VAL_TAR).write_bytes(tar_of({name: data for name, (_, data) in TEST.items()}))
    devkit(folder)
    return folder


def unpacked(folder):
    files = {f"train/{wnid}/{name}": data for wnid, some in TRAIN.items() for name, data in some.items()}
    files |= {f"val/{wnid}/{name}": data for name, (wnid, data) in TEST.items()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def made(tmp_path, root):
    folder = tmp_path / "data" / "sample"
    prepare("sample", {"source": "imagenet", "path": str(root), "label": "sample"}, folder, tmp_path)
    return prepared.read(folder)


def test_archives_and_unpacked_folders_are_the_same_data(tmp_path):
    one, other = made(tmp_path / "a", archives(tmp_path / "tars")), made(tmp_path / "b", unpacked(tmp_path / "files"))
    assert one.meta.fingerprint == other.meta.fingerprint and one.meta.classes == WNIDS
    assert (one.meta.train, one.meta.test, one.meta.shape) == (8, 4, (3, 224, 224))
    for split in ("train", "test"):
        ours, theirs = getattr(one, split), getattr(other, split)
        assert ours.labels.tolist() == theirs.labels.tolist()
    # Both are sorted by class and name, so photo by photo they are the same bytes.
    contents = [[data.train.images.content(i) for i in range(8)] for data in (one, other)]
    assert contents[0] == contents[1] == [TRAIN[wnid][name] for wnid in WNIDS for name in sorted(TRAIN[wnid])]
    (tmp_path / "files" / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").write_bytes(photo(99))
    assert made(tmp_path / "c", tmp_path / "files").meta.fingerprint != one.meta.fingerprint


def test_a_flat_folder_of_validation_photos_takes_its_classes_from_the_devkit(tmp_path):
    root = unpacked(tmp_path / "files")
    for name, (wnid, _) in TEST.items():
        (root / "val" / wnid / name).rename(root / "val" / name)
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    with pytest.raises(UserError, match=r"ILSVRC2012_devkit_t12.tar.gz is missing, which says the classes"):
        made(tmp_path, root)
    devkit(root)
    data = made(tmp_path, root)
    wnid_of = {content: wnid for wnid, content in TEST.values()}
    assert [WNIDS[label] for label in data.test.labels] == [wnid_of[data.test.images.content(i)] for i in range(4)]


def test_what_is_missing_or_cut_off_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; allowed: a folder that holds train/ with class"):
        made(tmp_path, tmp_path / "nowhere")
    root = archives(tmp_path / "tars")
    (root / imagenet.VAL_TAR).rename(root / "val.tar")
    with pytest.raises(UserError, match=r"neither val/ nor ILSVRC2012_img_val.tar; allowed"):
        made(tmp_path, root)
    (root / "val.tar").rename(root / imagenet.VAL_TAR)
    whole = (root / imagenet.TRAIN_TAR).read_bytes()
    (root / imagenet.TRAIN_TAR).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train.tar"):
        made(tmp_path, root)


def test_only_the_whole_is_called_imagenet(tmp_path):
    root = unpacked(tmp_path / "files")
    with pytest.raises(UserError, match=r"holds 2 classes, 8 training images, 4 test images, which is not ImageNet"):
        prepare("imagenet", {"source": "imagenet", "path": str(root)}, tmp_path / "data" / "imagenet", tmp_path)
    assert known_train_images({"source": "imagenet", "path": "x"}) == 1_281_167
    assert known_train_images({"source": "imagenet", "path": "x", "label": "sample"}) is None


def test_photos_are_cropped_and_images_of_one_size_padded():
    photos, images = {"source": "imagenet", "path": "x"}, {"source": "digits"}
    check_augment("f", "e", photos, {"flip": True, "resized_crop": True})
    check_augment("f", "e", images, {"flip": True, "pad": 4})
    with pytest.raises(UserError, match=r"f: e.augment.pad: 4 is not allowed; allowed: resized_crop instead"):
        check_augment("f", "e", photos, {"flip": True, "pad": 4})
    with pytest.raises(UserError, match=r"f: e.augment.resized_crop: True is not allowed; allowed: pad instead"):
        check_augment("f", "e", images, {"flip": True, "resized_crop": True})


def test_the_centre_is_torchvisions(tmp_path):
    data = made(tmp_path, unpacked(tmp_path / "files"))
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for place in range(8):
        image = Image.open(io.BytesIO(data.train.images.content(place))).convert("RGB")
        np.testing.assert_array_equal(data.train.images.centre(place), np.asarray(theirs(image)).transpose(2, 0, 1))


def test_a_crop_has_the_area_and_ratio_that_it_is_drawn_from():
    boxes = np.array([crop_box(300, 400, draw) for draw in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()
    area, ratio = height * width / 120_000, width / height
    assert 0.07 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert ratio.min() > 0.74 and ratio.max() < 1.35
    # Areas are uniform between 8 % and 100 %, but for large ones that do not fit.
    assert abs(np.median(area) - 0.5) < 0.08
    assert crop_box(10, 1000, 1) == (0, 493, 10, 13)  # no ratio fits: the centre


def test_a_broken_photo_is_named(tmp_path):
    root = unpacked(tmp_path / "files")
    broken = root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    broken.write_bytes(photo(1)[:200])
    images = made(tmp_path, root).train.images
    with pytest.raises(UserError, match=rf"{WNIDS[0]}_1.JPEG: broken photo at byte 0"):
        images.centre(1)
    broken.write_bytes(b"")
    with pytest.raises(UserError, match=rf"{WNIDS[0]}_1.JPEG: ends before its photo at byte 0; it is cut off"):
        images.centre(1)
    assert isinstance(images, Photos)


def setting(**more) -> Setting:
    values = {"data": "sample", "model": "resnet8", "weight_decay": 1e-4, "epochs": 2, "norm": "batch"}
    return Setting(**values | {"augment_resized": True, "augment_flip": True} | more)


def test_the_feed_serves_the_same_photos_whatever_was_asked_before(tmp_path):
    data = made(tmp_path, archives(tmp_path / "tars"))
    feed, other = feed_of(data, setting(), 2, CPU), feed_of(data, setting(), 2, CPU)
    assert isinstance(feed, PhotoFeed) and feed.steps == 4
    plan = feed.plan([1, 2], 0)
    straight = torch.cat([feed.batches(plan, step, step + 1).images for step in range(4)])
    assert straight.shape == (4, 2, 6, 224, 224)
    jumped = other.batches(other.plan([1, 2], 0), 2, 4).images
    torch.testing.assert_close(jumped, straight[2:], rtol=0, atol=0)
    alone = feed.plan([1], 0)
    torch.testing.assert_close(feed.batches(alone, 0, 2).images, straight[:2, :, :3], rtol=0, atol=0)
    assert not torch.equal(feed.batches(feed.plan([1], 1), 0, 2).images, straight[:2, :, :3])


def test_without_augmentation_training_photos_are_cut_as_test_photos(tmp_path):
    data = made(tmp_path, archives(tmp_path / "tars"))
    feed = feed_of(data, setting(augment_resized=False, augment_flip=False), 8, CPU)
    plan = feed.plan([1], 0)
    images = feed.batches(plan, 0, 1).images[0]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (imagenet.MEAN, imagenet.STD))
    first = torch.from_numpy(data.train.images.centre(int(plan.order[0, 0, 0])).copy()) / 255
    torch.testing.assert_close(images[0], (first - mean) / std, rtol=1e-5, atol=1e-5)
    assert [len(labels) for _, labels in feed.test_batches(3)] == [3, 1]


def test_arrays_keep_their_feed(data_folder):
    assert type(feed_of(prepared.read(data_folder), a_run().setting, 4, CPU)) is Feed


def test_photos_train(tmp_path):
    data = made(tmp_path, archives(tmp_path / "tars"))
    run = a_run(data="sample", model="resnet8", norm="batch", epochs=1, augment_resized=True, augment_flip=True)
    training = LaneTraining([run], data, CPU)
    losses = training._train_block(training.feed.plan([1], 0), 2)
    assert losses.shape == (2, 1) and losses.isfinite().all()
    assert 0 <= training._test(training.feed.test_batches).accuracies[0] <= 1


@pytest.mark.parametrize("training", [True, False])
def test_resnet50_is_torchvisions(training):
    ours = build("resnet50", (3, 64, 64), 7, norm="batch", bn_batch_size=4, seed=3).train(training)
    theirs = models.resnet50(num_classes=7).train(training)
    wanted = theirs.state_dict()
    theirs.load_state_dict(wanted | {key: value for key, value in ours.state_dict().items() if key in wanted})
    assert ours.state_dict().keys() == {key for key in wanted if not key.endswith("num_batches_tracked")}
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_resnet50_starts_as_the_paper_says_and_trains_without_normalisation():
    model = build("resnet50", (3, 64, 64), 7, norm="batch", bn_batch_size=4, seed=3)
    weight = model.layer1[0].conv2.weight
    assert abs(weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.02  # He: fan-in, gain of the rectifier
    assert model.fc.bias.abs().max() == 0 and abs(model.fc.weight.std().item() / (2 / 2048) ** 0.5 - 1) < 0.05
    plain = build("resnet50", (3, 64, 64), 7, seed=3)
    assert not any("bn" in name or "downsample.1" in name for name in plain.state_dict())
