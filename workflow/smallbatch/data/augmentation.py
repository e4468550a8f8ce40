"""Augmentation of image tensors: zero padding, random crop, random flip (Masters & Luschi 2018, section 3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_crop(images: Tensor, pad: int, offsets: Tensor) -> Tensor:
    """Pad images [n, c, h, w] with `pad` zeros a side and cut h x w out of them again.

    Args:
        images: of any type of number.
        pad: pixels.
        offsets: first row and column of each cut, [n, 2] int64, from 0 to 2 * pad.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    indices = torch.arange(len(images), device=images.device)
    return windows[indices, :, offsets[:, 0], offsets[:, 1]]


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror those images of [n, c, h, w] from left to right for which `flipped` [n] is true."""
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
