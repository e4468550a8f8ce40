"""Whether a CUDA graph can capture steps of the user's own model or loss: whether a replay does what a step does."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from smallbatch import models
from smallbatch.study.experiments import OF_TORCH, Run
from smallbatch.study.metrics import CROSS_ENTROPY
from smallbatch.training import lane_layers
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines import cached_models
from smallbatch.training.losses import loss_of
from smallbatch.training.network import Network
from smallbatch.training.own_models.operation_recorder import VALUE_READ_MESSAGE, VALUE_READING_OPERATIONS, Operations

META = torch.device("meta")
"""A device whose tensors have shapes and no values; it stands in for a GPU."""


class NotCapturable(Exception):
    """A replay would not do what a step does; the message says why."""


@contextlib.contextmanager
def repeatable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Context for a step that a replay has to repeat, without Python, in the memory that the step used.

    Args:
        model: the model that the step trains.
        device: the device of all its tensors.

    Raises:
        NotCapturable: the step reads a value, uses a tensor that is elsewhere, or replaces one of the model's tensors.
    """

    def before(operation: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        if operation in VALUE_READING_OPERATIONS:
            raise NotCapturable(VALUE_READ_MESSAGE)

    def after(operation: Any, arguments: Sequence[Any], options: Mapping[str, Any], result: Any) -> None:
        used = [leaf for leaf in tree_leaves([arguments, options, result]) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != device.type for tensor in used):
            raise NotCapturable("it computes with tensors that are not where its images are")

    before_step = _memory(model)
    with Operations(before, after):
        yield
    replaced = [name for name, memory in _memory(model).items() if not _are_same(memory, before_step[name])]
    if replaced:
        raise NotCapturable(f"it replaces {replaced[0]} by another tensor in its passes")


Memory = tuple[torch.UntypedStorage, tuple[Any, ...]]
"""Storage of a tensor, and its offset, shape and strides in it."""


def _memory(model: nn.Module) -> dict[str, Memory]:
    """Memory of each parameter and buffer; an address is not used again while somebody holds it."""
    return {
        name: (tensor.untyped_storage(), (tensor.storage_offset(), tensor.shape, tensor.stride()))
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _are_same(memory: Memory, other: Memory) -> bool:
    return memory[0]._cdata == other[0]._cdata and memory[1] == other[1]


def why_not_capturable(run: Run, shape: tuple[int, int, int], classes: int) -> str:
    """Why no CUDA graph can capture the steps of a run, as text; empty if one can, as far as can be seen without one.

    Args:
        run: the run.
        shape: image shape: channels, height, width.
        classes: number of classes or outputs.
    """
    if run.setting.optimizer.startswith(OF_TORCH):
        return f"{run.setting.optimizer} updates with numbers of the host"
    if not models.is_own(run.setting.model) and not run.setting.loss_function:
        return ""  # tests see to the project's own
    return _why_not_own(replace(run, base_lr=None, seed=0), shape, classes)


@lru_cache(maxsize=64)
def _why_not_own(run: Run, shape: tuple[int, int, int], classes: int) -> str:
    s, m = run.setting, run.batch_size
    classified = s.loss == CROSS_ENTROPY and not any(s.mixing.values())
    images, targets = torch.empty(m, *shape, device=META), torch.empty(m, 1, classes, device=META)
    labels = targets.argmax(2) if classified else targets
    try:
        with torch.random.fork_rng(devices=[]):
            network = Network(
                lane_layers.Alone(copy.deepcopy(cached_models.model_of(run, shape, classes)).to(META)),
                batch_size=m,
                bn_batch_size=run.bn_batch_size if s.norm == "batch" else 1,
                images_at_once="auto",
                pixels=1,
                precision="float32",
                loss=loss_of(s),
                device=META,
                world=ALONE,
                splittable=False,
            )
            network.gradients(images, labels)  # which may fill caches
            with repeatable(network.model, META):
                network.gradients(images, labels)
    except NotCapturable as reason:
        return str(reason)
    except Exception as error:  # a model's code may raise any exception where there are no values
        return f"without the values of tensors it fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return ""
