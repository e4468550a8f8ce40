"""Gradients at fixed weights, computed by the launches of a step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from smallbatch.training.engines.trace import Graph
from smallbatch.training.engines.triton_kernels.program import Program
from smallbatch.training.optimizers import LaneSGD


class Gradients:
    """Gradients of the mean loss of mini-batches of one size.

    A step at a rate of zero, without weight decay and momentum, changes no weight and leaves the gradients as
    velocities. It is made on a copy of the tensors, since an infinite gradient times zero is NaN.

    Args:
        graph: graph of the model.
        parameters, buffers: tensors by name, [lanes, ...].
        count: number of images in a mini-batch.
        sub_batch: b of batch normalisation.
        precision: as in `Setting`.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        *,
        count: int,
        sub_batch: int,
        precision: str,
    ) -> None:
        self.count = count
        self.gradients = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        copies = {name: tensor.detach().clone() for name, tensor in {**parameters, **buffers}.items()}
        no_update = LaneSGD([], [], weight_decay=0.0, momentum=0.0)
        self.program = Program(
            graph, copies, self.gradients, m=count, sub_batch=sub_batch, precision=precision, sgd=no_update
        )
        self.negative_rates = torch.zeros(self.program.lanes, device=self.program.device)
        self.program.load()

    def compute(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """The gradient of each parameter, [lanes, ...]; overwritten by the next call.

        Args:
            images: [count, lanes * c, h, w].
            labels: [count, lanes].
        """
        self.program.step(images, labels, self.negative_rates)
        self.program.store()
        return list(self.gradients.values())
