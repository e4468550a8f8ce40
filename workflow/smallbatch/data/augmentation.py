"""Augmentation of image tensors: zero padding, random crop, random flip (Masters & Luschi 2018, section 3.1); cutout
(DeVries & Taylor 2017); colour jitter, as `ColorJitter` of torchvision; mixup (Zhang et al. 2018) and CutMix (Yun et
al. 2019)."""

import torch
from torch import Tensor
from torch.nn import functional as F

BRIGHTNESS, CONTRAST, SATURATION = range(3)
"""Numbers of the colour changes, as in `Setting.color_jitter`."""

GRAY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a pixel's brightness, as in torchvision."""


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


def cutout(images: Tensor, side: int, centres: Tensor) -> Tensor:
    """Zero a square of `side` pixels in each of the images [n, c, h, w]; what is beyond the border is left out.

    Args:
        images: float tensor.
        side: pixels of a side.
        centres: row and column of each centre, [n, 2] int64; of an even square, of the pixel below and right of it.
    """
    top, left = (centres - side // 2).unbind(1)
    return images.masked_fill(rectangles(top, top + side, left, left + side, images)[:, None], 0)


def rectangles(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, images: Tensor) -> Tensor:
    """Whether each pixel of [..., h, w] lies in its image's rectangle, whose bounds are each [n]; [n, h, w] bool."""
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    of_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    of_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return of_rows[:, :, None] & of_columns[:, None]


def jitter(images: Tensor, factors: Tensor, changes: Tensor, largest: float) -> Tensor:
    """Change brightness, contrast and saturation of images [n, c, h, w], in an order of its own for each.

    Args:
        images: float tensor of values from 0 to `largest`.
        factors: the factor of each change, in the order in which they are made, [n, changes]; 1 for none.
        changes: the changes in this order, [n, changes], by number.
        largest: the value of a white pixel.
    """
    for factor, change in zip(factors.unbind(1), changes.unbind(1), strict=True):
        factor, change = (values.view(-1, 1, 1, 1) for values in (factor, change))
        gray = _gray(images)
        flat = torch.where(change == CONTRAST, gray.mean((1, 2, 3), keepdim=True), gray)
        target = flat.masked_fill(change == BRIGHTNESS, 0)
        images = (factor * images + (1 - factor) * target).clamp(0, largest)
    return images


def _gray(images: Tensor) -> Tensor:
    """The brightness of each pixel, [n, 1, h, w]."""
    if images.shape[1] != len(GRAY):
        return images.mean(1, keepdim=True)
    red, green, blue = (weight * channel for weight, channel in zip(GRAY, images.split(1, 1), strict=True))
    gray: Tensor = red + green + blue
    return gray


def cutmix_rectangles(kept: Tensor, centres: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The rectangles that CutMix replaces, and what they leave of the images.

    Args:
        kept: wanted part of each image that is kept, [n].
        centres: row and column of the centre of each rectangle, [n, 2] int64.
        height: pixels of an image.
        width: likewise.

    Returns:
        Top, bottom, left and right of each rectangle within the image, [n, 4] int64; and the part of each image that
        it leaves, [n].
    """
    limits = torch.tensor([height, width])
    halves = ((1 - kept).sqrt()[:, None] * limits).long() // 2
    starts, ends = (centres - halves).clamp(min=0), (centres + halves).minimum(limits)
    bounds = torch.stack([starts, ends], 2).flatten(1)
    return bounds, 1 - (ends - starts).prod(1) / (height * width)


def mixup(images: Tensor, others: Tensor, kept: Tensor) -> Tensor:
    """kept * image + (1 - kept) * other of images [n, c, h, w], with `kept` [n]."""
    kept = kept.view(-1, 1, 1, 1)
    return kept * images + (1 - kept) * others


def cutmix(images: Tensor, others: Tensor, bounds: Tensor) -> Tensor:
    """Images [n, c, h, w] with a rectangle of the others in its place: top, bottom, left and right, [n, 4]."""
    top, bottom, left, right = bounds.unbind(1)
    return torch.where(rectangles(top, bottom, left, right, images)[:, None], others, images)
