"""Augmentation against values worked out by hand, and against torchvision."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import a_run, made_data
from torch.nn import functional as F

from smallbatch.data import prepared
from smallbatch.data.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    cutmix_rectangles,
    cutout,
    flip,
    jitter,
    pad_crop,
)
from smallbatch.training.batches import BatchLoader
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")

IMAGE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def test_crops_are_cut_from_the_zero_padded_image():
    images = IMAGE.expand(3, 2, 2, 2)
    crops = pad_crop(images, 1, torch.tensor([[1, 1], [0, 0], [2, 1]]))
    assert crops.shape == (3, 2, 2, 2)
    assert torch.equal(crops[0, 1], IMAGE)
    assert torch.equal(crops[1, 0], torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert torch.equal(crops[2, 0], torch.tensor([[3.0, 4.0], [0.0, 0.0]]))


def test_only_those_asked_for_are_flipped():
    flipped = flip(IMAGE.expand(2, 1, 2, 2), torch.tensor([True, False]))
    assert torch.equal(flipped[0, 0], torch.tensor([[2.0, 1.0], [4.0, 3.0]]))
    assert torch.equal(flipped[1, 0], IMAGE)


def test_a_square_is_cut_out_whose_centre_may_lie_at_the_border():
    images = torch.ones(3, 2, 4, 5)
    cut = cutout(images, 2, torch.tensor([[1, 1], [0, 4], [3, 2]]))
    expected = images.clone()
    expected[0, :, 0:2, 0:2] = expected[1, :, 0:1, 3:5] = expected[2, :, 2:4, 1:3] = 0
    assert torch.equal(cut, expected) and images.min() == 1
    odd = cutout(images[:1], 3, torch.tensor([[1, 1]]))
    assert (odd[0, 0] == 0).nonzero().tolist() == [[row, column] for row in range(3) for column in range(3)]


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_changed_as_torchvision_changes_them_in_any_order(channels):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    theirs = {
        BRIGHTNESS: functional.adjust_brightness,
        CONTRAST: functional.adjust_contrast,
        SATURATION: functional.adjust_saturation,
    }
    draws = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(6, channels, 4, 5, generator=draws, dtype=torch.float64)
    changes = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    factors = 2 * torch.rand(6, 3, generator=draws, dtype=torch.float64)
    expected = images / 255
    for index in range(6):
        for change, factor in zip(changes[index].tolist(), factors[index].tolist(), strict=True):
            expected[index] = theirs[change](expected[index], factor)
    torch.testing.assert_close(jitter(images, factors, changes, 255) / 255, expected, rtol=1e-6, atol=1e-7)


ALL = {
    "augment_pad": 1, "augment_flip": True, "augment_cutout": 3,
    "augment_brightness": 0.5, "augment_contrast": 2.0, "augment_saturation": 0.25,
}  # fmt: skip


def test_images_are_coloured_normalised_cropped_flipped_and_cut_in_this_order(data_folder):
    loader = BatchLoader(prepared.read(data_folder), a_run(**ALL).setting, 4, CPU)
    plan = loader.plan([1, 2], 3)
    images = loader.batches(plan, 2, 4).images.unflatten(2, (2, -1))
    for step, example, lane in ((0, 0, 0), (1, 3, 1), (1, 0, 1)):
        at = 2 + step, example, lane
        image = loader.train_images.images[plan.order[at]].double()
        for factor, change in zip(plan.factors[at].tolist(), plan.changes[at].tolist(), strict=True):
            target = (0, image.mean(), image)[change]  # of one channel
            image = (factor * image + (1 - factor) * target).clamp(0, 255)
        image = F.pad((image - loader.mean) / loader.std, (1,) * 4)
        top, left = plan.offsets[at]
        image = image[:, top : top + 8, left : left + 8]
        image = image.flip(2) if plan.flipped[at] else image
        row, column = (plan.centres[at] - 1).tolist()
        image[:, max(row, 0) : row + 3, max(column, 0) : column + 3] = 0
        torch.testing.assert_close(images[step, example, lane].double(), image, rtol=1e-4, atol=1e-5)


def test_what_is_drawn_follows_from_seed_and_epoch_alone(tmp_path):
    loader = BatchLoader(prepared.read(made_data(tmp_path / "made", train=4000)), a_run(**ALL).setting, 4, CPU)
    together, alone, later = loader.plan([1, 2], 3), loader.plan([2], 3), loader.plan([2], 4)
    for name in ("factors", "changes", "centres"):
        drawn, other = getattr(alone, name), getattr(later, name)
        assert torch.equal(getattr(together, name)[:, :, 1:], drawn) and not torch.equal(drawn, other)
    factors, changes = (drawn.flatten(0, 2) for drawn in (alone.factors, alone.changes.long()))
    for change, (low, high) in {BRIGHTNESS: (0.5, 1.5), CONTRAST: (0, 3), SATURATION: (0.75, 1.25)}.items():
        drawn = factors[changes == change]
        assert len(drawn) == 4000 and low <= drawn.min() and drawn.max() <= high
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert changes.unique(dim=0).tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert alone.centres.flatten(0, 2).unique(dim=0).shape == (64, 2)
    before = BatchLoader(prepared.read(tmp_path / "made"), a_run(augment_pad=1, augment_flip=True).setting, 4, CPU)
    assert torch.equal(before.plan([2], 3).offsets, alone.offsets) and before.plan([2], 3).centres is None


def test_patches_are_those_of_the_authors():
    draws = torch.Generator().manual_seed(0)
    kept, height, width = torch.rand(200, generator=draws, dtype=torch.float64), 7, 10
    centres = torch.stack([torch.randint(size, (200,), generator=draws) for size in (height, width)], 1)
    bounds, left = cutmix_rectangles(kept, centres, height, width)
    for index in range(200):  # rand_bbox of Yun et al. 2019, and their lambda after it
        ratio, (row, column) = math.sqrt(1 - kept[index]), centres[index].tolist()
        rows, columns = int(height * ratio) // 2, int(width * ratio) // 2
        top, bottom = max(row - rows, 0), min(row + rows, height)
        start, end = max(column - columns, 0), min(column + columns, width)
        assert bounds[index].tolist() == [top, bottom, start, end]
        assert left[index].item() == pytest.approx(1 - (bottom - top) * (end - start) / (height * width))


MIXED = [{"augment_mixup": 0.4}, {"augment_cutmix": 1.0}]


def mixed_by_hand(loader, plan, step, lane):
    """Images of a mini-batch, each mixed with its partner, the labels of both, and the part of the first."""
    images, labels = loader.batches(replace(plan, partners=None, kept=None, bounds=None), step, step + 1)
    images, labels = images[0].unflatten(1, (len(plan.seeds), -1))[:, lane], labels[0, :, lane]
    partners, kept = plan.partners[step, :, lane], plan.kept[step, 0, lane]
    if plan.bounds is None:
        return kept * images + (1 - kept) * images[partners], labels, labels[partners], kept
    top, bottom, left, right = plan.bounds[step, 0, lane].tolist()
    assert kept.item() == pytest.approx(1 - (bottom - top) * (right - left) / 64)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners][:, :, top:bottom, left:right]
    return mixed, labels, labels[partners], kept


def pair(**kind):
    recipe = {"augment_pad": 1, "augment_cutout": 2, "batch_size": 8, "label_smoothing": 0.1, "base_lr": 2**-10}
    return [a_run(seed=seed, **recipe, **kind) for seed in (1, 2)]


@pytest.mark.parametrize("kind", MIXED)
def test_images_and_losses_are_mixed_as_published(kind, data_folder, double):
    training = LaneTrainer(pair(**kind), prepared.read(data_folder), CPU)
    network, plan = training.state.network, training.plan()
    images = training.loader.batches(plan, 0, 8).images.unflatten(2, (2, -1))
    for step in range(8):
        by_hand = [mixed_by_hand(training.loader, plan, step, lane) for lane in range(2)]
        expected = []
        for lane, (mixed, first, second, kept) in enumerate(by_hand):
            torch.testing.assert_close(images[step, :, lane], mixed)
            scores = network.logits(mixed).unflatten(1, (2, -1))[:, lane]
            one, two = (F.cross_entropy(scores, labels, label_smoothing=0.1) for labels in (first, second))
            expected.append(kept * one + (1 - kept) * two)
        losses = training.train_block(plan, step + 1)
        torch.testing.assert_close(losses[0], torch.stack(expected))
        training.state.add_losses(losses)


@pytest.mark.parametrize("kind", MIXED)
def test_mixtures_do_not_depend_on_company_blocks_processes_or_what_was_before(kind, data_folder):
    [_, run], data = pair(**kind), prepared.read(data_folder)
    loader = BatchLoader(data, run.setting, 8, CPU)
    plan = loader.plan([2], 1)
    whole, company = loader.batches(plan, 0, 8), loader.plan([1, 2], 1)
    for images, labels in (
        loader.batches(company.select([1]), 0, 8),
        [torch.cat(parts) for parts in zip(loader.batches(plan, 0, 3), loader.batches(plan, 3, 8), strict=True)],
        [
            torch.cat(parts, 1)
            for parts in zip(*(loader.batches(plan.local(r, 4), 0, 8) for r in range(4)), strict=True)
        ],
        BatchLoader(data, run.setting, 8, CPU).batches(plan.at(torch.arange(8)), 0, 8),
    ):
        assert torch.equal(images, whole.images) and torch.equal(labels, whole.labels)
    for name in ("partners", "kept", "bounds"):
        ours, later = getattr(plan, name), getattr(loader.plan([2], 2), name)
        assert (ours is None) == (later is None) == (name == "bounds" and "augment_mixup" in kind)
        assert ours is None or not torch.equal(ours, later)
    assert all(sorted(step.flatten().tolist()) == list(range(8)) for step in plan.partners)
    bare = BatchLoader(data, a_run(batch_size=8, augment_pad=1, augment_cutout=2).setting, 8, CPU).plan([2], 1)
    for name in ("order", "offsets", "centres"):
        assert torch.equal(getattr(bare, name), getattr(plan, name))


def test_weights_of_mixtures_are_of_a_beta_distribution(tmp_path):
    data = prepared.read(made_data(tmp_path / "made", train=8000))
    for alpha in (0.2, 3.0):
        kept = BatchLoader(data, a_run(augment_mixup=alpha).setting, 2, CPU).plan([1], 0).kept.double()
        assert kept.shape == (4000, 1, 1) and kept.min() >= 0 and kept.max() <= 1
        assert kept.mean().item() == pytest.approx(0.5, abs=0.025)
        assert kept.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_one_example_is_mixed_with_itself(data_folder):
    loader = BatchLoader(prepared.read(data_folder), a_run(augment_mixup=1.0).setting, 1, CPU)
    plan = loader.plan([1], 0)
    plain = loader.batches(replace(plan, partners=None, kept=None), 0, 4)
    torch.testing.assert_close(loader.batches(plan, 0, 4).images, plain.images)
