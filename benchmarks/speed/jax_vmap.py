"""Lanes as one would write them in JAX: vmap over runs, a scan over the steps of an epoch, the images on the device.

The model is the project's own as the engine traces it; each kind of its steps is a function here. Values are
[m, channels, height, width]: in which order they lie in memory, XLA chooses by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from smallbatch.models.normalisation import micro_batch_momenta
from smallbatch.training.engines.trace import Graph, Kind, Step

jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32, for all

Tensors = dict[str, Array]


class Lane(NamedTuple):
    """What changes in training, by its names in torch; of several lanes each tensor is [lanes, ...]."""

    weights: Tensors
    statistics: Tensors


class Data(NamedTuple):
    """Normalised images [n, channels, height, width] and their labels [n]."""

    images: Array
    labels: Array


def device_called(name: str) -> jax.Device:
    """The first device of a kind, `cpu` or `cuda`.

    Raises:
        ModuleNotFoundError: JAX is installed without what it needs for it.
    """
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise ModuleNotFoundError(name=f"jax for {name}") from error


def product(step: Step, weights: Tensors, x: Array) -> Array:
    """A convolution, or where its kernel covers the image, a linear layer."""
    kernel, (height, width) = weights[step.weight], step.kernel
    if (height, width) == x.shape[2:] and not step.pad:
        y = (x.reshape(len(x), -1) @ kernel.reshape(len(kernel), -1).T)[:, :, None, None]
    else:
        edges = [(step.pad, step.pad)] * 2
        y = lax.conv_general_dilated(x, kernel, [step.stride] * 2, edges, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y + weights[step.bias][:, None, None] if step.bias else y


def batch_norm(step: Step, lane: Lane, x: Array) -> tuple[Array, Tensors]:
    """Batch normalisation over all examples, and its running statistics afterwards."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = lane.weights[step.weight] * lax.rsqrt(var + step.eps)
    y = (x - mean[:, None, None]) * scale[:, None, None] + lane.weights[step.bias][:, None, None]
    count, [momentum] = x.size // x.shape[1], micro_batch_momenta([len(x)], len(x))
    now = {step.mean: mean, step.var: var * count / (count - 1)}
    return y, {name: old + momentum * (now[name] - old) for name, old in lane.statistics.items() if name in now}


def max_pool(step: Step, x: Array) -> Array:
    """Maxima of windows."""
    edges = ((0, 0), (0, 0), (step.pad, step.pad), (step.pad, step.pad))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *step.kernel), (1, 1, step.stride, step.stride), edges)


def mean_pool(step: Step, x: Array) -> Array:
    """Means of windows that do not overlap."""
    (height, width), (m, channels, *size) = step.kernel, x.shape
    return x.reshape(m, channels, size[0] // height, height, size[1] // width, width).mean((3, 5))


def shortcut(step: Step, x: Array) -> Array:
    """Every second pixel, and new channels of zeros."""
    return jnp.pad(x[:, :, ::2, ::2], ((0, 0), (0, step.output.channels - x.shape[1]), (0, 0), (0, 0)))


def forward(graph: Graph, lane: Lane, images: Array) -> tuple[Array, Tensors]:
    """Logits [m, classes] of one lane in training, and its running statistics afterwards."""
    values, statistics = {graph.input: images}, {}
    for step in graph.steps:
        x = values[step.input]
        match step.kind:
            case Kind.CONV:
                y = product(step, lane.weights, x)
            case Kind.BATCH_NORM:
                y, running = batch_norm(step, lane, x)
                statistics |= running
            case Kind.MAX_POOL:
                y = max_pool(step, x)
            case Kind.MEAN_POOL:
                y = mean_pool(step, x)
            case Kind.SHORTCUT:
                y = shortcut(step, x)
        if step.residual:
            y = y + values[step.residual]
        values[step.output] = jax.nn.relu(y) if step.relu else y
    return values[graph.logits][:, :, 0, 0], statistics


def update(graph: Graph, weight_decay: float, lane: Lane, eta: Array, batch: Data) -> tuple[Lane, Array]:
    """One lane after an update by SGD, and the loss before it."""

    def loss_of(weights: Tensors) -> tuple[Array, Tensors]:
        logits, statistics = forward(graph, lane._replace(weights=weights), batch.images)
        likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], 1)
        return -likelihoods.mean(), statistics

    (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(lane.weights)
    weights = jax.tree.map(lambda w, gradient: w - eta * (gradient + weight_decay * w), lane.weights, gradients)
    return Lane(weights, statistics), loss


@partial(jax.jit, static_argnames=("graph", "weight_decay", "batch_size"), donate_argnames="lanes")
def epoch(
    lanes: Lane, etas: Array, keys: Array, data: Data, *, graph: Graph, weight_decay: float, batch_size: int
) -> tuple[Lane, Array]:
    """All lanes after an epoch, each in the order of its key, and their mean losses [lanes]."""
    orders = jax.vmap(jax.random.permutation, (0, None))(keys, len(data.labels))
    batches = orders.reshape(len(keys), -1, batch_size).swapaxes(0, 1)

    def step(lanes: Lane, places: Array) -> tuple[Lane, Array]:
        batch = Data(data.images[places], data.labels[places])
        return jax.vmap(partial(update, graph, weight_decay))(lanes, etas, batch)

    lanes, losses = lax.scan(step, lanes, batches)
    return lanes, losses.mean(0)


def epochs(
    graph: Graph,
    lanes: Mapping[str, np.ndarray],
    etas: Sequence[float],
    data: tuple[np.ndarray, np.ndarray],
    *,
    weight_decay: float,
    batch_size: int,
    device: jax.Device,
) -> Iterator[tuple[np.ndarray, Lane]]:
    """Train epoch after epoch; yields the mean losses [lanes] of each, and the lanes, which the next one overwrites.

    Args:
        graph: of the model of one lane.
        lanes: their initial tensors by name, each [lanes, ...].
        etas: learning rate of each lane.
        data: normalised images [n, channels, height, width], n a multiple of the batch size, and labels [n].
        weight_decay: weight decay.
        batch_size: m.
        device: device to run on.
    """
    used = {name for step in graph.steps for name in (step.weight, step.bias)}
    with jax.default_device(device):
        tensors = {name: jnp.asarray(tensor) for name, tensor in lanes.items()}
        state = Lane(*({n: t for n, t in tensors.items() if (n in used) is part} for part in (True, False)))
        on_device, rates, key = Data(*map(jnp.asarray, data)), jnp.asarray(etas, jnp.float32), jax.random.key(0)
        while True:
            key, *keys = jax.random.split(key, 1 + len(etas))
            state, losses = epoch(
                state, rates, jnp.stack(keys), on_device, graph=graph, weight_decay=weight_decay, batch_size=batch_size
            )
            yield np.asarray(losses), state
