"""What all optimisers of lanes have in common: a rate for each lane, what they keep, and clipped gradients."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smallbatch.training.resources import device as devices

CLIP_EPSILON = 1e-6
"""Added to the norm by which gradients are divided, as in `torch.nn.utils.clip_grad_norm_`."""


class LaneOptimizer(abc.ABC):
    """Updates all lanes from the mean gradients of their mini-batches.

    Parameters without a gradient are not changed.

    Args:
        parameters: parameters, each [lanes, ...].
        etas: learning rate of each lane.
        weight_decay: weight decay of the parameters.

    Attributes:
        state: tensors [lanes, ...] kept from one update to the next.
        name: name of the optimiser, as in `Setting.optimizer`.
        betas, eps: as in `Setting`; for SGD, the first is the momentum.
        undecayed: indices of parameters without weight decay.
        undecayed_kinds: the same by their kinds, see `undecayed`.
        clip_norm: maximum norm of a lane's gradients, to which larger ones are scaled down; None for no clipping.
    """

    name: str
    betas: tuple[float, ...]
    eps = 0.0

    def __init__(self, parameters: Sequence[nn.Parameter], etas: Sequence[float], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.state: list[Tensor] = []
        self.undecayed: frozenset[int] = frozenset()
        self.undecayed_kinds: tuple[str, ...] = ()
        self.clip_norm: float | None = None
        self.use_parameters(parameters, etas)

    @property
    def means(self) -> list[Tensor]:
        """For each parameter its velocity or the running mean of its gradient; empty if none is kept."""
        return self.state[: len(self.parameters)]

    @property
    def squares(self) -> list[Tensor]:
        """For each parameter the running mean of its squared gradient; empty if none is kept."""
        return self.state[len(self.parameters) : 2 * len(self.parameters)]

    @property
    def updates(self) -> int:
        """Number of updates made, if the next one depends on it; else 0."""
        return int(self.state[-1][0]) if self.squares else 0

    def count(self, updates: int) -> None:
        """Add to the number of updates made, if the next one depends on it."""
        if self.squares:
            self.state[-1] += updates

    def use_parameters(self, parameters: Sequence[nn.Parameter], etas: Sequence[float]) -> None:
        """Continue with these parameters and rates; the state is not changed."""
        self.parameters, self.etas, self.factor = list(parameters), list(etas), -1.0

    def select(self, parameters: Sequence[nn.Parameter], keep: list[int]) -> None:
        """Continue with only the lanes of indices `keep`, whose parameters are now `parameters`."""
        self.state = [tensor[keep].clone() for tensor in self.state]
        self.use_parameters(parameters, [self.etas[lane] for lane in keep])

    def negative_rates(self, factors: Sequence[float]) -> Tensor:
        """-eta of every lane for each of these factors, [factors, lanes] on the parameters' device."""
        etas, by = (torch.tensor(values, dtype=torch.float64) for values in (self.etas, factors))
        return devices.copy_to_device((-etas * by[:, None]).float(), self.parameters[0].device)

    def step(self, factor: float) -> None:
        """Make one update at eta * factor from the parameters' `grad`, which it may overwrite."""
        if factor != self.factor:
            self.factor, self.at_factor = factor, self.negative_rates([factor])[0]
        self.step_at(self.at_factor)

    @torch.no_grad()
    def step_at(self, negative_rates: Tensor) -> None:
        """As `step`, at -eta of each lane [lanes], a row of `negative_rates`; the host need not know its values."""
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        step_sizes = self._step_sizes(negative_rates)
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                decay = 0.0 if index in self.undecayed else self.weight_decay
                self._update(index, parameter, parameter.grad, decay, [of_lanes(one, parameter) for one in step_sizes])

    def _clip(self, most: float) -> None:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        by = (most / (norms + CLIP_EPSILON)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(of_lanes(by, gradient))

    def _step_sizes(self, negative_rates: Tensor) -> Sequence[Tensor]:
        """Step sizes that the update of a parameter needs, each [lanes]; called once per update."""
        return (negative_rates,)

    @abc.abstractmethod
    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        """Update one parameter; its gradient may be overwritten.

        Args:
            index: index of the parameter.
            parameter: the parameter, [lanes, ...].
            gradient: its gradient, of the same shape.
            decay: its weight decay.
            step_sizes: the result of `_step_sizes`, each [lanes, 1, ...].
        """


def of_lanes(values: Tensor, like: Tensor) -> Tensor:
    """A value for each lane [lanes], reshaped to broadcast over a tensor [lanes, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
