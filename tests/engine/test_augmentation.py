"""Augmentation against values worked out by hand."""

import torch

from smallbatch.data.augmentation import flip, pad_crop

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
