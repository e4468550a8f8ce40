"""How runs will be trained, in words, before anything is."""

import torch

from smallbatch.study.experiments import Run
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines import backends
from smallbatch.training.own_models import suitability
from smallbatch.training.own_models.spec import SLOWER


def describe_planned_training(run: Run, shape: tuple[int, int, int], classes: int, device: torch.device) -> str:
    """How a run will be trained by one process, beside others that differ in rate and seed alone.

    Args:
        run: the run.
        shape: image shape: channels, height, width.
        classes: number of classes or outputs.
        device: device to train on.
    """
    suits = suitability(run.setting, shape, classes)
    backend = backends.choose(run, suits, shape, classes, device, ALONE)
    on_gpu = device.type == "cuda"
    by_torch = f"by torch{_steps(backend) if on_gpu else ''}"
    if not suits.lanes:
        cost = f"{SLOWER}{', and on a GPU was not measured' if on_gpu else ''}"
        return f"one run after the other, {by_torch}, since {suits.why_alone}; that {cost}"
    by_kernels = backend.layout or (on_gpu and backend.graph)
    return f"several runs in lanes, {'by the kernels of this project' if by_kernels else by_torch}"


def _steps(backend: backends.Backend) -> str:
    if backend.not_capturable:
        return f", operation by operation (not as a CUDA graph, since {backend.not_capturable})"
    return " as a CUDA graph"
