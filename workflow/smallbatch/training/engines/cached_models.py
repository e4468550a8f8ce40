"""The structure of a model, needed before lanes are made: built and traced once for each kind of training."""

import functools

import torch
from torch import nn

from smallbatch import models
from smallbatch.study.experiments import Run
from smallbatch.training.engines.trace import Graph, Unsupported


def model_of(run: Run, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The model of one lane of a run, with some initial weights; it is cached and must not be changed.

    Args:
        run: a run, or a `local_run`.
        shape: image shape: channels, height, width.
        classes: number of classes.
    """
    s = run.setting
    sub_batch = run.bn_batch_size if s.norm == "batch" else 2
    return build(s.model, s.norm, s.norm_layers, shape, classes, min(sub_batch, 2))


def build(
    model: str, norm: str, norm_layers: str, shape: tuple[int, int, int], classes: int, sub_batch: int
) -> nn.Module:
    """As `model_of`, from what determines the structure; of the sub-batch, only whether it is a single example."""
    key = models.entry_point(model), models.content(model), torch.get_default_dtype()
    return _build(model, key, norm, norm_layers, shape, classes, sub_batch)


def graph_of(model: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """The traced graph of a model alone.

    Raises:
        Unsupported: the model cannot be traced.
    """
    graph = _trace(model, shape)
    if isinstance(graph, Unsupported):
        raise Unsupported(*graph.args)
    return graph


@functools.lru_cache(maxsize=4)
def _build(
    model: str,
    key: tuple[str, str | None, torch.dtype],
    norm: str,
    norm_layers: str,
    shape: tuple[int, int, int],
    classes: int,
    sub_batch: int,
) -> nn.Module:
    return models.build(model, shape, classes, norm=norm, norm_layers=norm_layers, bn_batch_size=sub_batch)


@functools.lru_cache(maxsize=4)
def _trace(model: nn.Module, shape: tuple[int, int, int]) -> Graph | Unsupported:
    try:
        return Graph(model, shape)
    except Unsupported as reason:
        return reason
