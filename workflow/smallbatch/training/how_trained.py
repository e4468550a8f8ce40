"""How runs will be trained, in words, before anything is."""

import torch

from smallbatch.study.experiments import Run
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines import backends
from smallbatch.training.own_models import suitability


def how_trained(run: Run, shape: tuple[int, int, int], classes: int, device: torch.device) -> str:
    """How a run will be trained by one process, beside others that differ in rate and seed alone.

    Args:
        run: the run.
        shape: image shape: channels, height, width.
        classes: number of classes or outputs.
        device: device to train on.
    """
    suits = suitability(run.setting, shape, classes)
    if not suits.lanes:
        return "one run after the other, by torch"
    backend = backends.choose(run, suits, shape, classes, device, ALONE)
    by_kernels = backend.layout or (device.type == "cuda" and backend.graph)
    return f"several runs in lanes, by {'the kernels of this project' if by_kernels else 'torch'}"
