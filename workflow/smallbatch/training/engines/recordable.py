"""Whether a GPU can record steps of a model or a loss of the user's own: whether a replay does what a step does."""

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
from smallbatch.training import lanes
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines import structure
from smallbatch.training.losses import loss_of
from smallbatch.training.network import Network
from smallbatch.training.own_models.recording import READ_VALUES, READS_VALUES, Operations

META = torch.device("meta")
"""A device whose tensors have shapes and no values; it stands in for a GPU."""


class NotRecordable(Exception):
    """A replay would not do what a step does; the message says why."""


@contextlib.contextmanager
def repeatable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Context for a step that a replay has to repeat, without Python, in the memory that the step used.

    Args:
        model: the model that the step trains.
        device: the device of all its tensors.

    Raises:
        NotRecordable: the step reads a value, uses a tensor that is elsewhere, or replaces one of the model's tensors.
    """

    def before(operation: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        if operation in READ_VALUES:
            raise NotRecordable(READS_VALUES)

    def after(operation: Any, arguments: Sequence[Any], options: Mapping[str, Any], result: Any) -> None:
        used = [one for one in tree_leaves([arguments, options, result]) if isinstance(one, Tensor)]
        if any(tensor.device.type != device.type for tensor in used):
            raise NotRecordable("it computes with tensors that are not where its images are")

    held = _places(model)
    with Operations(before, after):
        yield
    replaced = [name for name, place in _places(model).items() if not _are_one(place, held[name])]
    if replaced:
        raise NotRecordable(f"it replaces {replaced[0]} by another tensor in its passes")


Place = tuple[torch.UntypedStorage, tuple[Any, ...]]
"""Memory of a tensor, and which part of it that is, in which order."""


def _places(model: nn.Module) -> dict[str, Place]:
    """Places of each parameter and buffer; an address is not used again while somebody holds it."""
    return {
        name: (tensor.untyped_storage(), (tensor.storage_offset(), tensor.shape, tensor.stride()))
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _are_one(place: Place, other: Place) -> bool:
    return place[0]._cdata == other[0]._cdata and place[1] == other[1]


def reason_against(run: Run, shape: tuple[int, int, int], classes: int) -> str:
    """Why a GPU cannot record the steps of a run, as text; empty if it can, as far as can be seen without one.

    Args:
        run: the run.
        shape: image shape: channels, height, width.
        classes: number of classes or outputs.
    """
    if run.setting.optimizer.startswith(OF_TORCH):
        return f"{run.setting.optimizer} updates with numbers of the host"
    if not models.is_own(run.setting.model) and not run.setting.loss_function:
        return ""  # tests see to the project's own
    return _of_one_own(replace(run, base_lr=None, seed=0), shape, classes)


@lru_cache(maxsize=64)
def _of_one_own(run: Run, shape: tuple[int, int, int], classes: int) -> str:
    s, m = run.setting, run.batch_size
    classified = s.loss == CROSS_ENTROPY and not any(s.mixing.values())
    images, targets = torch.empty(m, *shape, device=META), torch.empty(m, 1, classes, device=META)
    labels = targets.argmax(2) if classified else targets
    try:
        with torch.random.fork_rng(devices=[]):
            network = Network(
                lanes.Alone(copy.deepcopy(structure.model_of(run, shape, classes)).to(META)),
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
    except NotRecordable as reason:
        return str(reason)
    except Exception as error:  # a model's code may raise any exception where there are no values
        return f"without the values of tensors it fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return ""
