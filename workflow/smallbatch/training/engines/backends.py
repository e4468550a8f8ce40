"""The kinds of engines, and the function that chooses one of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from smallbatch import models
from smallbatch.study.experiments import OF_TORCH, Run
from smallbatch.study.metrics import CROSS_ENTROPY
from smallbatch.training.batches import BatchLoader
from smallbatch.training.distributed import World
from smallbatch.training.engines import cached_models, capturable, cuda_graphs
from smallbatch.training.engines.eager import EagerEngine, StochasticEngine
from smallbatch.training.engines.engine import Engine
from smallbatch.training.engines.native import engine as native
from smallbatch.training.engines.native.memory_layout import MemoryLayout
from smallbatch.training.engines.trace import Graph
from smallbatch.training.engines.triton_kernels import engine as triton
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.own_models import Suitability


@dataclass(frozen=True)
class Backend:
    """How the updates of a kind of run are made.

    suitability: how its model can be trained.
    layout: layout for the kernels for processors; None if they are not used.
    graph: graph for the kernels for GPUs; None if they are not used.
    not_capturable: why no CUDA graph can capture its steps, as text; empty if one can.
    """

    suitability: Suitability
    layout: MemoryLayout | None = None
    graph: Graph | None = None
    not_capturable: str = ""

    def engine(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader) -> Engine:
        """The fastest available engine for these lanes; to be made again when the lanes change."""
        parts = network, optimizer, loader
        captured = not self.not_capturable and cuda_graphs.can_capture(network, loader)
        if not self.suitability.lanes:  # a branch of the model may draw only later than any check sees
            return cuda_graphs.GraphEngineAlone(*parts) if captured else StochasticEngine(*parts)
        if self.layout:
            return native.NativeEngine(*parts, self.layout)
        if not captured:
            return EagerEngine(*parts)
        if self.graph and isinstance(optimizer, LaneSGD):
            return triton.TritonEngine(network, optimizer, loader, self.graph)
        return cuda_graphs.GraphEngine(*parts)

    def agrees_with_torch(self, engine: Engine, model: str, initial_model: Callable[[], nn.Module]) -> bool:
        """Whether the kernels for processors, if used, give the same results as torch.

        Args:
            engine: an engine of this backend.
            model: name of the model; for the project's own models, tests check more than the logits.
            initial_model: makes a model of a single lane, which may be changed.
        """
        if self.layout is None:
            return True
        images, _ = next(engine.loader.test_batches(2))
        ours, theirs = engine.logits(images), engine.network.logits(images)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item()):
            return False
        return not models.is_own(model) or native.matches_torch(initial_model(), self.layout, engine.loader)

    def without_kernels(self) -> "Backend":
        """The same backend with torch instead of kernels."""
        return replace(self, layout=None, graph=None)


def choose(
    run: Run, suitability: Suitability, shape: tuple[int, int, int], classes: int, device: torch.device, world: World
) -> Backend:
    """Choose the backend of a run.

    Args:
        run: a run, or a `local_run`.
        suitability: how the model can be trained.
        shape: image shape: channels, height, width.
        classes: number of classes.
        device: device to run on.
        world: the processes that share each mini-batch.
    """
    s = run.setting
    not_capturable = capturable.why_not_capturable(run, shape, classes) if device.type == "cuda" else ""
    of_torch = s.loss != CROSS_ENTROPY or s.loss_function or s.optimizer.startswith(OF_TORCH)
    # The kernels know neither other losses nor other optimisers.
    if of_torch or not (suitability.lanes and suitability.splittable):
        return Backend(suitability, not_capturable=not_capturable)
    alone = cached_models.model_of(run, shape, classes)
    layout = native.layout_for(alone, shape, run.setting.precision, device, world)
    return Backend(suitability, layout, triton.graph_for(alone, run, shape, device, world), not_capturable)
