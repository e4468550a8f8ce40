"""A traced model from the kernels' view: layers, packed weights, sizes, and unsupported properties."""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from smallbatch.training.engines.trace import Graph, Kind, Step, Unsupported, Value
from smallbatch.training.engines.triton_kernels import tiles

MAX_ELEMENTS = 2**31 - 1
"""Maximum number of elements of a value of one lane: offsets within a lane have 32 bits."""

BLOCK = 512
"""Number of elements per program in kernels without products."""


FUSED_ROWS = 512
"""Maximum rows (images x pixels) of a sub-batch that batch normalisation processes in one launch instead of two."""

NORM_ROWS, NORM_CHUNKS, NORM_PROGRAMS = 128, 64, 1056
"""For more rows: rows processed at a time, maximum number of chunks, and target number of programs."""


@dataclass(frozen=True)
class Layer:
    """A convolution or fully connected layer from the kernels' view.

    A convolution whose kernel is as large as its unpadded image is treated as fully connected: on one pixel.

    channels: channels of the input in memory.
    outputs: channels of the output.
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
        """The layer of a step, whose input has this number of channels in memory."""
        x, y = step.input, step.output
        if step.kernel == (x.height, x.width) and not step.pad:
            return cls(step, 1, 1, 1, 1, channels * x.height * x.width, y.channels, (1, 1), 1, 0)
        return cls(step, x.height, x.width, y.height, y.width, channels, y.channels, step.kernel, step.stride, step.pad)

    @property
    def weights(self) -> int:
        """Number of rows of packed weights without the row of biases."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def rows(self) -> int:
        """Number of rows of packed weights."""
        return self.weights + bool(self.step.bias)

    @property
    def constants(self) -> dict[str, int]:
        """The constants for which kernels are compiled."""
        return {
            "H": self.height, "W": self.width, "P": self.out_height, "Q": self.out_width, "CI": self.channels,
            "CO": self.outputs, "KH": self.kernel[0], "KW": self.kernel[1], "S": self.stride, "PAD": self.pad,
            "BIAS": int(bool(self.step.bias)),
        }  # fmt: skip

    @property
    def image(self) -> bool:
        """Whether the output has more than one pixel per image."""
        return self.out_height * self.out_width > 1

    def split(self, m: int, lanes: int) -> tuple[tiles.Tile, int, int]:
        """Tile, number of chunks, and pixels per chunk of the weight gradient."""
        pixels = m * self.out_height * self.out_width
        tile = tiles.weight_gradient(self.outputs, self.channels, pixels, image=self.image)
        warps = blocks(self.rows, tile.rows) * blocks(self.outputs, tile.columns) * lanes * tile.warps
        each = blocks(blocks(pixels, tiles.chunks(warps, pixels)), tile.depth) * tile.depth
        return tile, blocks(pixels, each), each


def blocks(number: int, size: int) -> int:
    """The quotient, rounded up."""
    return -(-number // size)


def channels_of(graph: Graph, value: Value) -> int:
    """Channels in memory: three of an image are padded to four, which are loaded at once."""
    return 4 if value is graph.input and value.channels == 3 else value.channels


def values(graph: Graph) -> list[Value]:
    """All values that a forward pass keeps in memory."""
    return [graph.input, *(step.output for step in graph.steps)]


def largest(graph: Graph) -> int:
    """Number of elements of the largest activation of an image."""
    return max(channels_of(graph, value) * value.height * value.width for value in values(graph))


def fits(graph: Graph, m: int) -> bool:
    """Whether the offsets within a mini-batch of m fit."""
    return m * largest(graph) <= MAX_ELEMENTS


def check(graph: Graph, m: int) -> None:
    """Make sure that the kernels can compute a traced model.

    Raises:
        Unsupported: the kernels cannot compute it.
    """
    if not fits(graph, m):
        raise Unsupported(f"a mini-batch of {m} has more than {MAX_ELEMENTS} numbers at once in one lane")
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


def floats_per_test_image(graph: Graph) -> int:
    """Number of float32 values for an image of a lane in testing."""
    return sum(channels_of(graph, value) * value.height * value.width for value in values(graph))


def floats_per_example(graph: Graph) -> int:
    """Number of float32 values for an example of a lane: values, gradients of each use of them, indices of maxima."""
    used = [step.input for step in graph.steps if step.input is not graph.input]
    pools = [step.output for step in graph.steps if step.kind == Kind.MAX_POOL]
    return floats_per_test_image(graph) + sum(prod(value.shape) for value in (*used, graph.logits, *pools))


def floats_per_lane(graph: Graph, m: int, sub_batch: int, momentum: float) -> int:
    """Number of float32 values for a lane beside its examples: packed weights, velocities, chunks of sums."""
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
    """Number of chunks for the rows (images x pixels) of a sub-batch, with `programs` programs for each chunk."""
    if rows <= FUSED_ROWS:
        return 1
    wanted = max(1, min(blocks(rows, NORM_ROWS), NORM_CHUNKS, NORM_PROGRAMS // programs))
    return blocks(rows, blocks(blocks(rows, wanted), NORM_ROWS) * NORM_ROWS)


class Packed:
    """The weights of a layer, and their velocities, in the kernels' form: [lanes, rows, outputs].

    Args:
        layer: the layer.
        weight, bias: torch's tensors; the bias is None if the layer has none.
        channels: channels of the input in the model; weights of padding channels are zero.
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


def epilogue(step: Step) -> dict[str, bool]:
    """The operations that follow a step in the same kernel."""
    return {"RESIDUAL": step.residual is not None, "RELU": step.relu}


def _sizes(step: Step) -> dict[str, int]:
    x, y = step.input, step.output
    return {"H": x.height, "W": x.width, "P": y.height, "Q": y.width}


def channels(step: Step) -> dict[str, int]:
    """The constants for which kernels of shortcuts are compiled."""
    return _sizes(step) | {"CI": step.input.channels, "CO": step.output.channels}


def window(step: Step) -> dict[str, int]:
    """The constants for which pooling kernels are compiled."""
    sizes = _sizes(step) | {"C": step.input.channels}
    if step.kind == Kind.MAX_POOL:
        return sizes | {"K": step.kernel[0], "S": step.stride, "PAD": step.pad}
    return sizes | {"KH": step.kernel[0], "KW": step.kernel[1]}
