"""Photos of many sizes, read from their original files and decoded during training.

In memory, the 1.3 million photos of ImageNet would take 190 GB as squares of 224 pixels, and a random crop needs more
of each photo than that. So the prepared form is an index, and threads decode ahead of the training.

Preprocessing is that of torchvision's reference training of ResNet-50. Training: a random part with 8 ... 100 % of the
area and aspect 3/4 ... 4/3, resized to 224x224. (He et al. 2015a and Simonyan & Zisserman crop from a photo resized to
a random scale; both were later replaced by this method of Szegedy et al. 2015.) Validation: the shorter side resized to
256, the centre 224x224. Both bilinear with antialiasing. EXIF orientation is ignored.
"""

import functools
import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from smallbatch.core.environment import processors
from smallbatch.core.errors import UserError
from smallbatch.data.decoding import BrokenImage, image_in, in_mode

SIZE, RESIZED = 224, 256
SHAPE = (3, SIZE, SIZE)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's training images, from torchvision, in units of pixel value / 255."""

AREA, ASPECT, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""For a random crop: its part of the photo's area, width / height, and number of draws before the centre is used."""

CHUNK = 8  # photos per task: enough to hide its overhead, few enough to share a block among the threads
AHEAD = 1024  # photos decoded ahead of their use, 150 MB; at least one block

Request = tuple[Tensor, Tensor | None]
"""Indices [n] int64 of photos, and the box of each that is resized, [n, 4] int64; None for the centre square."""


@dataclass(frozen=True)
class Photos:
    """Photos, each a part of a file.

    root: folder that holds the files.
    index: [n] of `prepared.index_type`: file below the root, member name (if the file is an archive), offset and size
        in bytes, height and width in pixels, SHA-256 of the bytes.
    """

    root: Path
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def sizes(self) -> Tensor:
        """Height and width of each photo in pixels, [n, 2] int64."""
        sides = [torch.from_numpy(self.index[side].astype(np.int64)) for side in ("height", "width")]
        return torch.stack(sides, 1)

    def where(self, number: int) -> str:
        """The photo's file and, in an archive, its member name."""
        entry = self.index[number]
        name = os.fsdecode(bytes(entry["name"]))
        return f"{self._file(number)}{f': {name}' if name else ''}"

    def _file(self, number: int) -> Path:
        return self.root / os.fsdecode(bytes(self.index[number]["file"]))

    def read(self, number: int) -> bytes:
        """The bytes of a photo's file, checked against the index.

        Raises:
            UserError: the file cannot be read, or its bytes have changed.
        """
        data = self.read_unchecked(number)
        if hashlib.sha256(data).digest() != self.index[number]["sha256"].tobytes():
            raise UserError(f"{self.where(number)}: was changed since it was prepared; prepare the data set again")
        return data

    def read_unchecked(self, number: int) -> bytes:
        """The bytes at the location of a photo, unchecked.

        Raises:
            UserError: the file cannot be read, or is too short.
        """
        size, offset = int(self.index[number]["size"]), int(self.index[number]["offset"])
        try:
            with open(self._file(number), "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise UserError(f"{self.where(number)}: cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise UserError(
                f"{self.where(number)}: ends after {len(data)} of {size} bytes; it was changed or cut short"
            )
        return data

    def pixels(self, number: int, box: list[int] | None) -> Tensor:
        """A photo as used in training, [3, 224, 224] uint8.

        Args:
            number: index of the photo.
            box: top, left, height and width of the part that is resized, or None for the centre square.

        Raises:
            UserError: the photo cannot be read or decoded, or has changed since it was prepared.
        """
        try:
            image = decoded(self.read(number))
        except BrokenImage as error:
            raise UserError(f"{self.where(number)}: is a broken image ({error})") from error
        return centre_square(image) if box is None else F.resized_crop(image, *box, [SIZE, SIZE])

    def blocks(self, requests: Iterable[Request], *, pinned: bool = False) -> Iterator[Tensor]:
        """Decode blocks of photos in threads, ahead of their use: for each request [n, 3, 224, 224] uint8, in order.

        Args:
            requests: consumed as far ahead as `AHEAD` allows.
            pinned: whether to place the blocks in pinned memory, from which a GPU copies at full speed.

        Raises:
            UserError: as in `pixels`.
        """
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for request in requests:
                waiting.append(self._begin(*request, pinned))
                if sum(len(block) for block, _ in waiting) >= AHEAD + len(waiting[0][0]):
                    yield _finished(waiting)
            while waiting:
                yield _finished(waiting)
        finally:  # the consumer may have stopped early
            for _, tasks in waiting:
                for task in tasks:
                    task.cancel()

    def _begin(self, numbers: Tensor, boxes: Tensor | None, pinned: bool) -> tuple[Tensor, list[Future[None]]]:
        """A block to be filled, and the tasks that fill it."""
        block = torch.empty((len(numbers), *SHAPE), dtype=torch.uint8, pin_memory=pinned)

        def fill(start: int) -> None:
            for at in range(start, min(start + CHUNK, len(numbers))):
                block[at] = self.pixels(int(numbers[at]), None if boxes is None else boxes[at].tolist())

        return block, [_threads().submit(fill, start) for start in range(0, len(numbers), CHUNK)]


def _finished(waiting: deque[tuple[Tensor, list[Future[None]]]]) -> Tensor:
    block, tasks = waiting[0]
    for task in tasks:
        task.result()
    waiting.popleft()
    return block


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """A pool with a thread per processor: decoding releases the interpreter's lock; torch uses one thread in each."""
    Image.init()  # loads the formats, which threads must not do at the same time
    return ThreadPoolExecutor(processors(), "decode", torch.set_num_threads, (1,))


def decoded(data: bytes) -> Tensor:
    """The photo in the bytes of an image file, [3, height, width] uint8; grey, CMYK and alpha are converted to RGB.

    Raises:
        BrokenImage: the image cannot be decoded.
    """
    with image_in(data) as image:  # reads the header only, and refuses images that would fill the memory
        if image.format == "JPEG" and image.mode != "CMYK":
            # The same pixels as Pillow's in two thirds of the time; on an error Pillow decodes it or raises its own.
            # (Since 0.29 this is announced to move to TorchCodec; without it, only the speed changes.)
            with suppress(RuntimeError):
                pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
                return pixels
        return torch.from_numpy(np.array(in_mode(image, "RGB"))).permute(2, 0, 1)


def centre_square(image: Tensor) -> Tensor:
    """Resize the shorter side of an image [3, h, w] to 256 and crop the centre, [3, 224, 224]."""
    square: Tensor = F.center_crop(F.resize(image, [RESIZED]), [SIZE, SIZE])
    return square


def resized_crops(sizes: Tensor, draws: torch.Generator) -> Tensor:
    """Draw the part of each photo that is resized: top, left, height and width, [n, 4] int64.

    As torchvision's RandomResizedCrop: the area is uniform, the aspect log-uniform; a part that does not fit the photo
    is drawn again, and after ten draws the centre is used, as large as the aspect allows.

    Args:
        sizes: height and width of the photos, [n, 2].
        draws: random number generator.
    """
    boxes = _centres(sizes)
    left_over = torch.arange(len(sizes))
    lowest, highest = (math.log(aspect) for aspect in ASPECT)
    for _ in range(ATTEMPTS):
        u = torch.rand((4, len(left_over)), generator=draws, dtype=torch.float64)
        height, width = sizes[left_over].unbind(1)
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * u[0])
        aspect = torch.exp(lowest + (highest - lowest) * u[1])
        h, w = torch.sqrt(area / aspect).round(), torch.sqrt(area * aspect).round()
        top, left = torch.floor(u[2] * (height - h + 1)), torch.floor(u[3] * (width - w + 1))
        fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
        boxes[left_over[fits]] = torch.stack([top, left, h, w], 1)[fits].long()
        left_over = left_over[~fits]
    return boxes


def _centres(sizes: Tensor) -> Tensor:
    """The largest centred part with an allowed aspect, [n, 4] int64."""
    height, width = sizes.double().unbind(1)
    h = torch.minimum(height, (width / ASPECT[0]).round())
    w = torch.minimum(width, (height * ASPECT[1]).round())
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], 1).long()
