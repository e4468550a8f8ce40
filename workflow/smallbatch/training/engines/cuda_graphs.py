"""Updates on a GPU: a step, from loading to update, is captured once as a CUDA graph and then replayed.

All that differs between steps is on the device: the plan of the block, its rates, and a counter for the current row of
both. So the host only launches replays, and reads nothing until the end of the block.
"""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from smallbatch.training.batches import BatchLoader, EpochPlan
from smallbatch.training.engines.capturable import NotCapturable, repeatable
from smallbatch.training.engines.eager import EagerEngine, StochasticEngine
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.network import Network

REPLAY_STEPS, REPLAY_IMAGES, REPLAY_VALUES = 8, 1 << 14, 1 << 26
"""Maximum number of steps, images and pixel values of the longer graph. All its steps share one launch and one gather,
which matters for steps of about 100 us. The rest of a block is replayed step by step."""

GRAPH_STEPS, GRAPH_IMAGES, GRAPH_VALUES = 1 << 13, 1 << 22, 1 << 30
"""A block is the rest of the epoch, with a maximum number of steps, images and pixel values. This limits it to about
15 s (2 ms per step; 60 million values/s, as for a deep network at 64 lanes), since a checkpoint that is due waits for
the end of the block; and it limits the copy of the plan to 100 MB, 25 bytes per image. The limits are not times, since
diverged lanes are dropped at the end of a block, and a resumed run must drop them at the same step."""

WARM_UPS = 3
"""Number of steps before the capture, in which libraries initialise themselves: that cannot be captured."""

Program = Callable[[], object]
"""A function that makes some steps."""

log = logging.getLogger(__name__)


def can_capture(network: Network, loader: BatchLoader) -> bool:
    """Whether steps can be captured: on a GPU, by one process, with all images on the device."""
    on_device = loader.train_images.read_on.type == "cuda"
    return on_device and network.device.type == "cuda" and network.world.size == 1


def capture_graphs(rehearse: Program, programs: Sequence[Program], device: torch.device) -> list[Program]:
    """Capture programs as CUDA graphs, without running them; returns the function that replays each.

    The graphs share their memory: each may overwrite the results of another, except in tensors that existed before.

    Args:
        rehearse: called several times before the capture.
        programs: functions to be captured.
        device: a GPU.
    """
    gc.collect()  # reference cycles left by an error may hold graphs, and none may be destroyed during a capture
    with torch.cuda.device(device):
        pool, side = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    rehearse()
        finally:
            torch.cuda.current_stream().wait_stream(side)
        graphs = [torch.cuda.CUDAGraph() for _ in programs]
        for graph, program in zip(graphs, programs, strict=True):
            with torch.cuda.graph(graph, pool=pool, stream=side):
                program()
    return [graph.replay for graph in graphs]


def not_captured_message(reason: str) -> str:
    """What the log says of steps that are not captured."""
    return f"steps are made operation by operation, not as a CUDA graph, since {reason}"


class GraphEngine(EagerEngine):
    """Updates by replays of a captured step.

    A graph holds addresses of parameters, running statistics and velocities: when the lanes change, a new object is
    needed. It is captured in the first block, when the micro-batch is known and any saved state has been loaded.
    Mini-batches that have to be divided into micro-batches are left to `EagerEngine`.

    Attributes:
        plan: copy of the block's plan; also negative_rates and losses, [steps, lanes] each; counter, the next step,
            [1].
        replays: number of steps -> function that replays them; the largest number first.
    """

    capture = staticmethod(capture_graphs)

    def __init__(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader) -> None:
        super().__init__(network, optimizer, loader)
        self.replays: dict[int, Program] = {}

    @property
    def at_once(self) -> bool:
        """Whether a whole mini-batch is in memory at once."""
        return self.network.micro_batch == self.network.local_batch

    @property
    def steps(self) -> int:
        """Maximum number of steps of a block."""
        if not self.at_once:
            return super().steps
        return min(self.loader.steps, self._within(GRAPH_STEPS, GRAPH_IMAGES, GRAPH_VALUES))

    @property
    def replay_steps(self) -> int:
        """Maximum number of steps of a replay."""
        return self._within(REPLAY_STEPS, REPLAY_IMAGES, REPLAY_VALUES)

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """Make the updates of steps first ... last - 1, as in `Engine`, without the host waiting for the device."""
        if not self.at_once:
            return super().block(plan, first, last, factors)
        if not self.replays:
            self._allocate(plan)
        count = last - first
        self.plan.fill(plan, first, last)
        self.negative_rates[:count].copy_(self.optimizer.negative_rates(factors))
        self.counter.zero_()
        if not self.replays:
            self._capture()
        self._run(plan, range(first, last))
        return self.losses[:count].clone()

    def _allocate(self, plan: EpochPlan) -> None:
        self.plan = plan.empty(self.steps)
        self.negative_rates, self.losses = (
            torch.zeros(self.steps, self.network.lanes, device=self.network.device) for _ in range(2)
        )
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.network.device)

    def _capture(self) -> None:
        sizes = list(dict.fromkeys((self.replay_steps, 1)))
        with self._kept():
            programs = [partial(self._make_steps, size) for size in sizes]
            replays = self.capture(self._rehearse, programs, self.network.device)
        self.replays = dict(zip(sizes, replays, strict=True))

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Context that restores everything that steps change, also what they replaced."""
        before = [tensor.clone() for tensor in self._changing()]
        try:
            yield
        finally:
            for tensor, value in zip(self._changing(), before, strict=True):
                tensor.copy_(value)

    def _changing(self) -> list[Tensor]:
        return [*self.network.model.state_dict().values(), *self.optimizer.state, self.counter]

    def _rehearse(self) -> None:
        self.counter.zero_()  # there may be fewer rows than rehearsals
        self._make_steps(1)

    def _run(self, plan: EpochPlan, steps: range) -> None:
        """Replay these steps of the epoch."""
        count = len(steps)
        for size, replay in self.replays.items():
            for _ in range(count // size):
                replay()
            count %= size

    def _make_steps(self, count: int) -> None:
        """Make the next steps from the counter on. This is captured: nothing may need a number from the device."""
        rows = self.counter + torch.arange(count, device=self.counter.device)
        batches, negative_rates = (
            self.loader.batches(self.plan.at(rows), 0, count),
            self.negative_rates.index_select(0, rows),
        )
        losses = []
        for images, labels, negative_rate in zip(*batches, negative_rates, strict=True):
            losses.append(self._make_step(images, labels, negative_rate))
        self.losses.index_copy_(0, rows, torch.stack(losses))
        self.counter.add_(count)

    def _make_step(self, images: Tensor, labels: Tensor, negative_rates: Tensor) -> Tensor:
        """Make a step from a mini-batch and -eta of each lane, [lanes]; returns the losses before it, [lanes]."""
        losses = self.network.gradients(images, labels)
        self.optimizer.step_at(negative_rates)
        return losses


class GraphEngineAlone(GraphEngine, StochasticEngine):
    """Updates of a model that is trained alone, by replays of a captured step with the random numbers of each step.

    Torch passes the state of its generator to a replay. If the rehearsal shows that a replay would do otherwise than a
    step, which on this device alone may be so, steps are left to `StochasticEngine`.
    """

    def __init__(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader) -> None:
        super().__init__(network, optimizer, loader)
        self.capturable = True

    @property
    def at_once(self) -> bool:
        """As in `GraphEngine`, and steps can be captured."""
        return self.capturable and super().at_once

    @property
    def replay_steps(self) -> int:
        """One: each step has random numbers of its own."""
        return 1

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """As in `GraphEngine`."""
        try:
            with self.seeded_rng(plan, first):  # for rehearsals
                return super().block(plan, first, last, factors)
        except NotCapturable as reason:
            log.info("%s", not_captured_message(str(reason)))
            self.capturable = False
            return super().block(plan, first, last, factors)

    def _rehearse(self) -> None:
        super()._rehearse()  # which may fill caches
        with repeatable(self.network.model, self.network.device):
            super()._rehearse()

    def _run(self, plan: EpochPlan, steps: range) -> None:
        for step in steps:
            with self.seeded_rng(plan, step):
                self.replays[1]()
