"""The public data sets as published: sizes, and checksums of archives."""

from typing import NamedTuple


class DatasetInfo(NamedTuple):
    """Size of a data set: image shape (channels, height, width), number of classes, of training and of test images,
    bytes of each value of an image, and what its labels are, see `Meta.targets`; of numbers, before they are prepared,
    one that is neither 0 nor 1."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    value_bytes: int = 1
    targets: str | None = None
    a_number: str | None = None


PUBLIC_DATASETS = {
    "digits": DatasetInfo((1, 8, 8), 10, 1437, 360),
    "cifar10": DatasetInfo((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": DatasetInfo((3, 32, 32), 100, 50_000, 10_000),
    "imagenet": DatasetInfo((3, 224, 224), 1000, 1_281_167, 50_000),
}
"""Sizes by source. ImageNet's image shape is that of the crops."""

ORIGINAL_MD5 = {
    "cifar10": "c58f30108f718f92721af3b95e74349a",
    "cifar100": "eb9058c3a382ffc7106e4002c42a8d85",
}
"""Checksums of the public "python version" archives. A source's name in this table is reserved for the original."""
