"""Optimisers for lanes, each lane with its own learning rate: SGD, Adam and Lion as published."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smallbatch.study.experiments import Setting
from smallbatch.training import lanes
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
        return devices.send((-etas * by[:, None]).float(), self.parameters[0].device)

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


class LaneSGD(LaneOptimizer):
    """v <- momentum * v + (gradient + weight_decay * theta); theta <- theta - eta * v, for every parameter.

    As `torch.optim.SGD`: eta multiplies the velocity. Without momentum v is the gradient. With Nesterov's momentum,
    theta moves by the gradient + momentum * v.

    Args:
        parameters, etas, weight_decay: as in `LaneOptimizer`.
        momentum: momentum; 0 for none.
        nesterov: whether to use Nesterov's momentum.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        etas: Sequence[float],
        weight_decay: float,
        momentum: float,
        *,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, etas, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov
        self.name, self.betas = "nesterov" if nesterov else "sgd", (momentum, 0.0)
        self.state = [torch.zeros_like(parameter) for parameter in parameters] if momentum else []

    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        [negative_rate] = step_sizes
        # Not parameter * (1 - eta * weight_decay): in float32 that factor is 1 if eta is small.
        change = gradient.add_(parameter, alpha=decay)
        if self.state:
            velocity = self.state[index].mul_(self.momentum).add_(change)
            change = change.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        parameter.addcmul_(change, negative_rate)


class LaneAdam(LaneOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) and AdamW (Loshchilov & Hutter 2019, algorithm 2), as in torch.optim.

    Args:
        parameters, etas, weight_decay: as in `LaneOptimizer`.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the square root of the latter.
        decoupled: whether weights decay by eta * weight_decay, as in AdamW, instead of by a term of the gradient.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        etas: Sequence[float],
        weight_decay: float,
        betas: Sequence[float],
        eps: float,
        *,
        decoupled: bool,
    ) -> None:
        super().__init__(parameters, etas, weight_decay)
        self.betas, self.eps, self.decoupled = tuple(betas), eps, decoupled
        self.name = "adamw" if decoupled else "adam"
        means = [torch.zeros_like(parameter) for parameter in [*parameters, *parameters]]
        count = torch.zeros(len(parameters[0]), dtype=torch.float64, device=parameters[0].device)
        self.state = [*means, count]  # on the device: a recorded update cannot use numbers of the host

    def _step_sizes(self, negative_rates: Tensor) -> Sequence[Tensor]:
        self.count(1)
        first, second = (1 - beta ** self.state[-1] for beta in self.betas)
        return negative_rates, (negative_rates / first).float(), second.sqrt().float()

    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        negative_rate, corrected_rate, root = step_sizes
        mean, square = self.means[index], self.squares[index]
        if self.decoupled:
            parameter.addcmul_(parameter * decay, negative_rate)
        else:
            gradient.add_(parameter, alpha=decay)
        mean.lerp_(gradient, 1 - self.betas[0])
        square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        parameter.addcmul_(mean / (square.sqrt().div_(root).add_(self.eps)), corrected_rate)


class LaneLion(LaneOptimizer):
    """Lion (Chen et al. 2023, algorithm 2): updates by the sign of a mean of gradients, with decoupled weight decay.

    Args:
        parameters, etas, weight_decay: as in `LaneOptimizer`.
        betas: decay rates of the mean whose sign is used, and of the mean that is stored.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        etas: Sequence[float],
        weight_decay: float,
        betas: Sequence[float],
    ) -> None:
        super().__init__(parameters, etas, weight_decay)
        self.name, self.betas = "lion", tuple(betas)
        self.state = [torch.zeros_like(parameter) for parameter in parameters]

    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        [negative_rate] = step_sizes
        mean = self.state[index]
        change = mean.lerp(gradient, 1 - self.betas[0]).sign_().add_(parameter, alpha=decay)
        parameter.addcmul_(change, negative_rate)
        mean.lerp_(gradient, 1 - self.betas[1])


def optimizer_of(
    setting: Setting, model: nn.Module, parameters: Sequence[nn.Parameter], etas: Sequence[float]
) -> LaneOptimizer:
    """The optimiser of a setting.

    Args:
        setting: setting of the runs.
        model: model of the lanes.
        parameters: its parameters, each [lanes, ...].
        etas: learning rate of each lane.
    """
    optimizer = _of_rule(setting, parameters, etas)
    optimizer.undecayed_kinds, optimizer.clip_norm = setting.weight_decay_excludes, setting.clip_norm
    optimizer.undecayed = undecayed(model, setting.weight_decay_excludes)
    return optimizer


def _of_rule(s: Setting, parameters: Sequence[nn.Parameter], etas: Sequence[float]) -> LaneOptimizer:
    match s.optimizer:
        case "sgd" | "nesterov":
            return LaneSGD(parameters, etas, s.weight_decay, s.momentum, nesterov=s.optimizer == "nesterov")
        case "adam" | "adamw":
            decoupled = s.optimizer == "adamw"
            return LaneAdam(parameters, etas, s.weight_decay, s.betas, s.eps, decoupled=decoupled)
        case "lion":
            return LaneLion(parameters, etas, s.weight_decay, s.betas)
    raise ValueError(f"there is no optimizer {s.optimizer}")


def undecayed(model: nn.Module, kinds: Sequence[str]) -> frozenset[int]:
    """Indices of the parameters without weight decay.

    Args:
        model: model of the lanes.
        kinds: `norms` for all parameters of layers with norm in their class name, `biases` for those of other layers.
    """
    model = model.model if isinstance(model, lanes.Alone) else model

    def kind(name: str) -> str:
        layer, _, last = name.rpartition(".")
        is_norm = "norm" in type(model.get_submodule(layer)).__name__.lower()
        return "norms" if is_norm else "biases" if last.endswith("bias") else ""

    return frozenset(index for index, (name, _) in enumerate(model.named_parameters()) if kind(name) in kinds)
