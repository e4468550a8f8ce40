"""The public data sets as they are published: sizes, and checksums of archives."""

from typing import NamedTuple


class DatasetInfo(NamedTuple):
    """Size of a data set: image as channels, height, width; number of classes, training and test images."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


ORIGINALS = {
    "digits": DatasetInfo((1, 8, 8), 10, 1437, 360),
    "cifar10": DatasetInfo((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": DatasetInfo((3, 32, 32), 100, 50_000, 10_000),
    "imagenet": DatasetInfo((3, 224, 224), 1000, 1_281_167, 50_000),
}
"""By source. ImageNet's images are of the size that they are cropped to."""

ORIGINAL_MD5 = {
    "cifar10": "c58f30108f718f92721af3b95e74349a",
    "cifar100": "eb9058c3a382ffc7106e4002c42a8d85",
}
"""Of the public "python version" archives. A source in this table gives the name to the original's pixels alone."""
