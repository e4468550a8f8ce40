"""Sizes of tiles and numbers of parts: a function of shapes alone, since other sizes round otherwise.

Condensed from the best of some 20 tiles for each layer of the reduced AlexNet and ResNet-20 at m = 2 ... 2048 on an
H200: small tiles won at small m, where they occupy more of the device, large ones where there is work for all.
"""

from typing import Any, NamedTuple

FEW, MANY, MOST = 100_000, 200_000, 1_000_000
"""Numbers of a result, in all lanes, up to which tiles are small; up to which deep; from which large."""

PARTS_MOST, PART_LEAST = 64, 128
"""Parts of the sum of a weight gradient, and pixels of each."""


class Tile(NamedTuple):
    """Rows, columns and depth of a tile, and the warps that compute it."""

    rows: int
    columns: int
    depth: int
    warps: int

    @property
    def options(self) -> dict[str, Any]:
        """As kernels take it."""
        return {"BM": self.rows, "BN": self.columns, "BK": self.depth, "num_warps": self.warps, "num_stages": 3}


def power_of_two(number: int, least: int, most: int) -> int:
    """The least power of two that is not below `number`, within bounds that are powers themselves."""
    return min(max(1 << (number - 1).bit_length(), least), most)


def forward(rows: int, columns: int, channels: int, depth: int) -> Tile:
    """Of a convolution's result: rows (pixels of all lanes), columns (outputs), input channels, products of each."""
    numbers = rows * columns
    if channels < 16 and depth > 64:  # each number is gathered
        return Tile(32, 16, 16, 1)
    if columns <= 16:
        return Tile(16, 16, 32, 1) if numbers < FEW else Tile(64 if numbers < 4 * MOST else 256, 16, 32, 4)
    if numbers < MANY:
        return Tile(16, 64, 64, 4) if columns > 32 else Tile(16, 32, 64, 2)
    if numbers < MOST:
        return Tile(32, 32, 32, 2)
    return Tile(128, 32 if columns % 64 and columns != 48 else 64, 32, 4)


def input_gradient(rows: int, columns: int, depth: int) -> Tile:
    """Of the gradient of a convolution's input: rows (its pixels), columns (its channels), products of each."""
    numbers = rows * columns
    if depth <= 16:
        return Tile(16, 16, 16, 1)
    if columns <= 16:
        return Tile(16, 16, 32, 1) if numbers < FEW else Tile(64 if numbers < 4 * MOST else 256, 16, 32, 4)
    if numbers < MANY:
        return Tile(16, 64, 64, 4) if columns > 32 and depth > 256 else Tile(16, 32, 32, 2)
    return Tile(32, 32, 32, 2)


def weight_gradient(columns: int, channels: int, pixels: int, *, image: bool) -> Tile:
    """Of the gradient of a convolution's weights: columns (outputs), input channels, pixels that each is summed over.

    image: whether there is more than one pixel an image.
    """
    if columns <= 16:
        return Tile(32 if channels >= 16 and image else 16, 16, 16, 1)
    if not image:
        return Tile(64, 32, 16, 2)
    if pixels <= 256:
        return Tile(32, 32, 32, 2)
    if columns == 64 and channels >= 64:
        return Tile(128, 64, 32, 4)
    return Tile(64, 32, 32, 4) if columns % 64 and columns != 48 else Tile(16, 64, 64, 4)


def parts(programs: int, pixels: int) -> int:
    """Parts of the sum of a weight gradient over so many pixels whose tiles are `programs`, in all lanes."""
    return max(1, min(PARTS_MOST, 1056 // programs, pixels // PART_LEAST))
