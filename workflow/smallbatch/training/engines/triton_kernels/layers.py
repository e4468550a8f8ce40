"""What the kernels make of a traced model: layers as they see them, packed weights, sizes, what they cannot do."""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from smallbatch.training.engines.trace import Graph, Kind, Step, Unsupported, Value
from smallbatch.training.engines.triton_kernels import tiles

MAX_NUMBERS = 2**31 - 1
"""Of a value of one lane: offsets within a lane are of 32 bits."""

BLOCK = 512
"""Numbers that a program of kernels without products takes."""


FUSED_ROWS = 512
"""Rows (images x pixels) of a sub-batch that one program of batch norm takes at once: one launch instead of two."""

NORM_ROWS, NORM_CHUNKS, NORM_PROGRAMS = 128, 64, 1056
"""Else the rows that it takes at a time, the chunks that there are at most, and the programs aimed for."""


@dataclass(frozen=True)
class Layer:
    """A convolution or fully connected layer as kernels see it.

    A kernel as large as its unpadded image is treated as fully connected: an image of a single pixel.

    channels: of the input in memory.
    outputs: channels that it makes.
    """

    step: Step
    height: int
    width: int
    out_height: int
    out_width: int
    channels: int
    outputs: int
    kernel: tuple[int, int]
    stride: int
    pad: int

    @classmethod
    def of(cls, step: Step, channels: int) -> "Layer":
        """A step's, whose input has so many channels in memory."""
        x, y = step.input, step.output
        if step.kernel == (x.height, x.width) and not step.pad:
            return cls(step, 1, 1, 1, 1, channels * x.height * x.width, y.channels, (1, 1), 1, 0)
        return cls(step, x.height, x.width, y.height, y.width, channels, y.channels, step.kernel, step.stride, step.pad)

    @property
    def weights(self) -> int:
        """Rows of packed weights without that of the biases."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def rows(self) -> int:
        """Rows of packed weights."""
        return self.weights + bool(self.step.bias)

    @property
    def constants(self) -> dict[str, int]:
        """As kernels take them."""
        return {
            "H": self.height, "W": self.width, "P": self.out_height, "Q": self.out_width, "CI": self.channels,
            "CO": self.outputs, "KH": self.kernel[0], "KW": self.kernel[1], "S": self.stride, "PAD": self.pad,
            "BIAS": int(bool(self.step.bias)),
        }  # fmt: skip

    @property
    def image(self) -> bool:
        """Whether what it makes of an image has more than one pixel."""
        return self.out_height * self.out_width > 1

    def split(self, m: int, lanes: int) -> tuple[tiles.Tile, int, int]:
        """Tile, chunks, and pixels of a chunk, of the weight gradient."""
        pixels = m * self.out_height * self.out_width
        tile = tiles.weight_gradient(self.outputs, self.channels, pixels, image=self.image)
        warps = blocks(self.rows, tile.rows) * blocks(self.outputs, tile.columns) * lanes * tile.warps
        each = blocks(blocks(pixels, tiles.chunks(warps, pixels)), tile.depth) * tile.depth
        return tile, blocks(pixels, each), each


def blocks(number: int, size: int) -> int:
    """The quotient, rounded up."""
    return -(-number // size)


def channels_of(graph: Graph, value: Value) -> int:
    """Channels in memory: three of an image become four, which are loaded at once."""
    return 4 if value is graph.input and value.channels == 3 else value.channels


def values(graph: Graph) -> list[Value]:
    """All that a forward pass has in memory."""
    return [graph.input, *(step.output for step in graph.steps)]


def largest(graph: Graph) -> int:
    """Elements of the largest activation of an image."""
    return max(channels_of(graph, value) * value.height * value.width for value in values(graph))


def fits(graph: Graph, m: int) -> bool:
    """Whether the offsets of a mini-batch of m do not overflow."""
    return m * largest(graph) <= MAX_NUMBERS


def check(graph: Graph, m: int) -> None:
    """Make sure that the kernels can compute a traced model.

    Raises:
        Unsupported: they cannot.
    """
    if not fits(graph, m):
        raise Unsupported(f"a mini-batch of {m} has more than {MAX_NUMBERS} numbers at once in one lane")
    seen = set()
    for step in reversed(graph.steps):
        if step.kind == Kind.MAX_POOL and prod(step.kernel) > 127:
            raise Unsupported("it pools over more than 127 pixels")
        if step.residual is not None:
            if step.residual in seen or (graph.completes(step, step.residual) and step.residual is not step.input):
                raise Unsupported("its residual is used in between")
            seen.add(step.residual)
        seen.add(step.input)
    if graph.logits.channels > 1024:
        raise Unsupported("it has more than 1024 classes")


def numbers_tested(graph: Graph) -> int:
    """Float32 numbers that an image of a lane takes in testing: all values."""
    return sum(channels_of(graph, value) * value.height * value.width for value in values(graph))


def numbers_of_example(graph: Graph) -> int:
    """Float32 numbers that an example of a lane takes: values, gradients of each use of them, indices of maxima."""
    used = [step.input for step in graph.steps if step.input is not graph.input]
    pools = [step.output for step in graph.steps if step.kind == Kind.MAX_POOL]
    return numbers_tested(graph) + sum(prod(value.shape) for value in (*used, graph.logits, *pools))


def numbers_of_lane(graph: Graph, m: int, sub_batch: int, momentum: float) -> int:
    """Float32 numbers that a lane takes beside its examples: packed weights, velocities, chunks of sums."""
    total = 0
    for step in graph.steps:
        if step.kind == Kind.CONV:
            layer = Layer.of(step, channels_of(graph, step.input))
            total += layer.rows * layer.outputs * (1 + (momentum > 0) + layer.split(m, 1)[1])
        elif step.kind == Kind.BATCH_NORM:
            chunks = norm_chunks(sub_batch * step.input.height * step.input.width, 1)
            total += m // sub_batch * 2 * step.input.channels * (1 + 2 * chunks)
    return total


def norm_chunks(rows: int, programs: int) -> int:
    """Into how many chunks to split the rows (images x pixels) of a sub-batch, given so many programs for each."""
    if rows <= FUSED_ROWS:
        return 1
    wanted = max(1, min(blocks(rows, NORM_ROWS), NORM_CHUNKS, NORM_PROGRAMS // programs))
    return blocks(rows, blocks(blocks(rows, wanted), NORM_ROWS) * NORM_ROWS)


class Packed:
    """The weights of a layer, and their velocities, as the kernels have them: [lanes, rows, outputs].

    Args:
        layer: whose.
        weight, bias: as torch has them; no bias where the layer has none.
        channels: of the input in the model; further ones in memory have weights of zero.
    """

    def __init__(self, layer: Layer, weight: Tensor, bias: Tensor | None, channels: int) -> None:
        lanes, step = len(weight), layer.step
        self.numbers = weight.new_zeros(lanes, layer.rows, layer.outputs)
        taps = prod(step.kernel)
        mine = self.numbers[:, : layer.weights].unflatten(1, (taps, -1))[:, :, :channels]
        theirs = weight.view(lanes, layer.outputs, channels, taps).permute(0, 3, 2, 1)
        self.pairs = [(mine, theirs)]
        if bias is not None:
            self.pairs.append((self.numbers[:, -1], bias))


def endings(step: Step) -> dict[str, bool]:
    """What follows a step in the same kernel."""
    return {"RESIDUAL": step.residual is not None, "RELU": step.relu}


def _sizes(step: Step) -> dict[str, int]:
    x, y = step.input, step.output
    return {"H": x.height, "W": x.width, "P": y.height, "Q": y.width}


def channels(step: Step) -> dict[str, int]:
    """What kernels of shortcuts are compiled for."""
    return _sizes(step) | {"CI": step.input.channels, "CO": step.output.channels}


def window(step: Step) -> dict[str, int]:
    """What pooling kernels are compiled for."""
    sizes = _sizes(step) | {"C": step.input.channels}
    if step.kind == Kind.MAX_POOL:
        return sizes | {"K": step.kernel[0], "S": step.stride, "PAD": step.pad}
    return sizes | {"KH": step.kernel[0], "KW": step.kernel[1]}
