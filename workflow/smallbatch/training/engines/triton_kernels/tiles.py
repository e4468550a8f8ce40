"""Tile sizes and numbers of chunks: they depend only on shapes, since other sizes change the rounding.

Derived from the best of some 20 tiles for each layer of the reduced AlexNet and ResNet-20 at m = 2 ... 2048 on an
H200: small tiles are best at small m, as they occupy more of the device, large ones if all of it is busy anyway.
"""

from typing import Any, NamedTuple

FEW, MANY, SOME, MOST = 100_000, 200_000, 400_000, 1_000_000
"""Numbers of output elements, over all lanes, from which tiles are larger."""

MAX_PARTS, WARPS, MIN_PART, MAX_WARPS, PART_LARGE = 64, 2112, 64, 8448, 1024
"""For the sum of a weight gradient: maximum number of chunks; target number of warps, 16 per multiprocessor of an H200;
minimum pixels per chunk; maximum number of warps if chunks are large; pixels of such a chunk."""


class Tile(NamedTuple):
    """Rows, columns and depth of a tile, and the warps that compute it."""

    rows: int
    columns: int
    depth: int
    warps: int

    @property
    def options(self) -> dict[str, Any]:
        """The options for which kernels are compiled."""
        return {"BM": self.rows, "BN": self.columns, "BK": self.depth, "num_warps": self.warps, "num_stages": 3}


def power_of_two(number: int, least: int, most: int) -> int:
    """The smallest power of two >= `number`, within bounds that are powers of two."""
    return min(max(1 << (number - 1).bit_length(), least), most)


def _narrow(numbers: int) -> Tile:
    """The tile for an output with at most 16 columns."""
    if numbers < SOME:
        return Tile(64, 16, 32, 4)
    return Tile(128, 16, 32, 4)


def forward(rows: int, columns: int, channels: int, depth: int, *, image: bool) -> Tile:
    """The tile for a convolution's output.

    Args:
        rows: number of pixels in all lanes.
        columns: number of output channels.
        channels: number of input channels.
        depth: number of products per output element.
        image: whether images have more than one pixel.
    """
    numbers = rows * columns
    if channels < 16 and depth > 64 and numbers < MOST:  # kernels with few channels
        return Tile(32, 16, 16, 1)
    if columns <= 16:
        return Tile(16, 16, 64, 2) if numbers < FEW else _narrow(numbers)
    if numbers < MANY:
        if not image:
            return Tile(16, 32, 128, 4)
        return Tile(16, 32, 64, 2) if columns <= 32 else Tile(32 if columns > 64 else 16, 64, 64, 4)
    if numbers < MOST:
        return Tile(32, 32, 32, 2)
    if columns % 64 and columns != 48:
        return Tile(128, 32, 32, 4)
    return Tile(128, 64, 32, 4) if numbers < 16 * MOST else Tile(256, 64, 32, 8)


def input_gradient(rows: int, columns: int, depth: int, *, image: bool) -> Tile:
    """The tile for the gradient of a convolution's input; arguments as for `forward`, for that gradient."""
    numbers = rows * columns
    if depth <= 16:
        return Tile(16, 16, 16, 1)
    if columns <= 16:
        return Tile(16, 16, 64, 1) if numbers < MANY else _narrow(numbers)
    if numbers < MANY:
        if not image or columns <= 32:
            return Tile(16, 32, 64, 2)
        return Tile(32 if columns > 64 else 16, 64, 64, 4)
    if numbers < SOME:
        return Tile(32, 32, 32, 2)
    if columns <= 32 or numbers < MOST:
        return Tile(64, 32, 32, 4)
    return Tile(128 if columns == 48 else 64, 64, 32, 4)


def weight_gradient(columns: int, channels: int, pixels: int, *, image: bool) -> Tile:
    """The tile for the gradient of a convolution's weights, which is a sum over `pixels` pixels."""
    if columns <= 16:
        if channels < 16:
            return Tile(16, 16, 32, 1)
        return Tile(32 if image else 16, 16, 16, 1)
    if columns <= 32 or (columns == 96 and pixels > 256) or not (image or pixels > 256):
        return Tile(64, 32, 16, 2)
    return Tile(32, 64, 32, 4)


def chunks(warps: int, pixels: int) -> int:
    """Number of chunks for the sum of a weight gradient over `pixels` pixels, from its number of warps in all lanes."""
    few, many = min(WARPS // warps, pixels // MIN_PART), min(MAX_WARPS // warps, pixels // PART_LARGE)
    return max(1, min(MAX_PARTS, max(few, many)))
