"""The images that all train on, and how the usual loop reads them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from smallbatch.data.prepared import Meta, Prepared, Split, channel_statistics
from speed.cells import CLASSES


def pictures(shape: tuple[int, int, int], images: int) -> Prepared:
    """A made data set that can be learnt: each class has a pattern, under noise. It has two test images."""
    draws = np.random.default_rng(0)
    patterns = draws.integers(0, 96, (CLASSES, *shape), dtype=np.uint8)
    labels = draws.integers(0, CLASSES, images)
    pixels = draws.integers(0, 160, (images, *shape), dtype=np.uint8) + patterns[labels]
    classes = tuple(map(str, range(CLASSES)))
    meta = Meta("made", classes, shape, *channel_statistics(pixels), images, 2, "made")
    return Prepared(meta, Split(pixels, labels), Split(pixels[:2], labels[:2]))


def normalised(data: Prepared) -> tuple[Tensor, Tensor]:
    """All training images [n, channels, height, width], normalised, and their labels [n]."""
    images, labels = map(torch.from_numpy, (data.train.images, data.train.labels))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.meta.mean, data.meta.std))
    return (images / 255 - mean) / std, labels


class Pictures(Dataset):
    """The images as torchvision's CIFAR10 and MNIST serve theirs: through Pillow and a transform, one at a time."""

    def __init__(self, data: Prepared) -> None:
        images = np.ascontiguousarray(data.train.images.transpose(0, 2, 3, 1))
        self.images = images[..., 0] if images.shape[-1] == 1 else images
        self.targets = data.train.labels.tolist()
        self.transform = _transform(data.meta)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), self.targets[place]


def _transform(meta: Meta) -> Callable[[np.ndarray], Tensor]:
    """To Pillow, to a tensor, normalised; where there is no torchvision, the same by hand."""
    try:
        from PIL import Image
        from torchvision import transforms
    except ImportError:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (meta.mean, meta.std))
        return lambda image: (torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1) / 255 - mean) / std
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(meta.mean, meta.std)])
    return lambda image: steps(Image.fromarray(image))
