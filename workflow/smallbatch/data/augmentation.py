"""Augmentation of image tensors: zero padding, random crop, random flip (Masters & Luschi 2018, section 3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_crop(images: Tensor, pad: int, offsets: Tensor) -> Tensor:
    """Pad images [n, c, h, w] with `pad` zeros on each side and crop them to h x w.

    Args:
        images: tensor of any numeric type.
        pad: pixels.
        offsets: first row and column of each crop, [n, 2] int64, from 0 to 2 * pad.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    indices = torch.arange(len(images), device=images.device)
    return windows[indices, :, offsets[:, 0], offsets[:, 1]]


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images of [n, c, h, w] for which `flipped` [n] is true from left to right."""
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
