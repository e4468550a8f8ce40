"""Several processes, started by `torchrun`, that train the same lanes, each on a local batch of every mini-batch."""

import datetime
import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from smallbatch.core import signals
from smallbatch.core.errors import Stopped, UserError, refuse
from smallbatch.study.experiments import Run
from smallbatch.training.resources import device as devices

T = TypeVar("T")

PEER_TIMEOUT = datetime.timedelta(hours=12)
"""Timeout of processes that wait for one another. Long, since the first may wait for another job's lock; `torchrun`
ends the remaining processes when one dies."""


@dataclass(frozen=True)
class World:
    """The processes that share each mini-batch; process `rank` takes the rank-th contiguous m / size examples."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes: runs, checkpoints, log lines, locks."""
        return self.rank == 0

    def local_run(self, run: Run) -> Run:
        """A run as seen by one process: with its local batch of m / size examples."""
        m = run.batch_size // self.size
        return replace(run, batch_size=m, bn_batch_size=min(run.bn_batch_size, m))

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over processes and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over processes."""
        if self.size > 1 and tensors:
            flat = self.sum(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def minimum(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        if self.size == 1:
            return number
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MIN)
        return int(numbers)

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process and return its result in all processes."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(box)
        value: T = box[0]
        return value

    def stop_if_asked(self) -> None:
        """Stop all processes here if the main one was asked to stop.

        Raises:
            Stopped: the main process was asked to stop.
        """
        if signal := self.broadcast(signals.signal_received):
            raise Stopped(signal)

    def group(self, size: int) -> dist.ProcessGroup | None:
        """The group of `size` neighbouring processes that includes this one; None if `size` is 1."""
        group = _groups(size, self.size)[self.rank // size] if size > 1 else None
        assert not isinstance(group, int), "a number stands for a group of other processes"
        return group


ALONE = World()
"""A single process."""


@functools.cache
def _groups(size: int, processes: int) -> list[dist.ProcessGroup | int]:
    # Every process has to create every group, even those it is not in.
    return [dist.new_group(list(range(first, first + size))) for first in range(0, processes, size)]


def join(device: str) -> tuple[World, torch.device]:
    """Join the processes that share mini-batches with this one, if any; returns them and this process's device.

    Args:
        device: auto, cpu, cuda or cuda:N; if the job has several processes on this machine, cuda is one GPU for each.

    Raises:
        UserError: the device does not exist, or there is not one for each process.
    """
    size, local_size = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    gpus = torch.cuda.device_count()
    if "LOCAL_RANK" in os.environ and device in ("auto", "cuda") and gpus:
        if gpus < local_size:
            raise UserError(
                f"config/config.yaml: training: {local_size} processes take a GPU each, and this job sees {gpus}; "
                "allowed: as many GPUs, fewer training.processes or training.side_by_side, or training.device: cpu"
            )
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = devices.pick(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    if size == 1:
        return ALONE, chosen
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=PEER_TIMEOUT)
    world = World(dist.get_rank(), dist.get_world_size())
    if not world.is_main:
        logging.getLogger("smallbatch").setLevel(logging.ERROR)
    return world, chosen


def check(run: Run, world: World) -> None:
    """Make sure that a run can be divided among processes.

    Raises:
        UserError: its mini-batches or its batch statistics cannot be divided evenly.
    """
    if allowed := run.why_not_shareable(world.size):
        refuse("config/config.yaml", "training.processes", world.size, allowed)
