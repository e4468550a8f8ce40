"""Updates by torch, operation by operation: on every device, for every model."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from smallbatch.core.seeds import stream_seed
from smallbatch.models.initialisation import seed_generators
from smallbatch.training.batches import Batches, EpochPlan
from smallbatch.training.engines.engine import BLOCK_IMAGES, BLOCK_STEPS, BLOCK_VALUES, Engine


class EagerEngine(Engine):
    """Updates by torch's gradients and the lanes' optimiser."""

    @property
    def steps(self) -> int:
        """As `Updates.steps`."""
        return self._within(BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES)

    def make(self, batches: Batches, factors: Sequence[float]) -> Tensor:
        """As `Updates.make`."""
        losses = []
        for images, labels, factor in zip(*batches, factors, strict=True):
            losses.append(self.network.gradients(images, labels))
            self.optimizer.step(factor)
        self.network.share_buffers()
        world = self.network.world
        return world.sum(torch.stack(losses)) / world.size

    def gradients(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """As `Updates.gradients`."""
        self.network.gradients(images, labels, alone=True)
        parameters = self.network.parameters
        return [torch.zeros_like(weights) if weights.grad is None else weights.grad for weights in parameters]

    def normalising(self, sub_batch: int) -> contextlib.AbstractContextManager[object]:
        """As `Updates.normalising`."""
        return self.network.normalising(sub_batch)

    def logits(self, images: Tensor) -> Tensor:
        """As `Updates.logits`."""
        return self.network.logits(images)


class StochasticEngine(EagerEngine):
    """Updates of a single lane whose model draws random numbers, as in dropout, from only (seed, epoch, step)."""

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """As `Updates.block`."""
        return torch.cat([self._step(plan, step, factors[step - first]) for step in range(first, last)])

    def _step(self, plan: EpochPlan, step: int, factor: float) -> Tensor:
        with self.seeded_rng(plan, step):
            return super().block(plan, step, step + 1, [factor])

    @contextlib.contextmanager
    def seeded_rng(self, plan: EpochPlan, step: int) -> Iterator[None]:
        """As `Updates.seeded_rng`; torch's global generator is left as it was."""
        device, [seed] = self.network.device, plan.seeds
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            seed_generators(stream_seed(seed, "model", plan.epoch, step))
            yield
