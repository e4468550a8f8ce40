"""Optimisers on lanes, each lane with its own learning rate: SGD, Adam and Lion as their authors have them."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smallbatch.study.experiments import Setting
from smallbatch.training import lanes
from smallbatch.training.resources import device as devices

CLIP_EPSILON = 1e-6
"""Added to a norm that gradients are divided by, as in `torch.nn.utils.clip_grad_norm_`."""


class LaneOptimizer(abc.ABC):
    """Updates all lanes from the gradients of their mini-batch means.

    Parameters without a gradient stay as they are.

    Args:
        parameters: each [lanes, ...].
        etas: learning rate of each lane.
        weight_decay: of the parameters.

    Attributes:
        state: what it remembers from one update to the next, tensors [lanes, ...].
        name: as a setting has it.
        betas, eps: as a setting has them; of SGD its momentum comes first.
        undecayed: indices of parameters that do not decay.
        undecayed_kinds: the same by their kinds, see `undecayed`.
        clip_norm: the largest norm of a lane's gradients, to which longer ones are shortened; None: as they are.
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
        """Of each parameter its velocity, or the running mean of its gradient; empty where none is kept."""
        return self.state[: len(self.parameters)]

    @property
    def squares(self) -> list[Tensor]:
        """Of each parameter the running mean of its squared gradient; empty where none is kept."""
        return self.state[len(self.parameters) : 2 * len(self.parameters)]

    @property
    def updates(self) -> int:
        """How many were made, where the next one depends on that; else 0."""
        return int(self.state[-1][0]) if self.squares else 0

    def count(self, updates: int) -> None:
        """Note updates, where the next one depends on how many there were."""
        if self.squares:
            self.state[-1] += updates

    def use_parameters(self, parameters: Sequence[nn.Parameter], etas: Sequence[float]) -> None:
        """Go on with these parameters and their rates; the state stays as it is."""
        self.parameters, self.etas, self.factor = list(parameters), list(etas), -1.0

    def select(self, parameters: Sequence[nn.Parameter], keep: list[int]) -> None:
        """Go on with only the lanes of these indices, whose parameters are now `parameters`."""
        self.state = [tensor[keep].clone() for tensor in self.state]
        self.use_parameters(parameters, [self.etas[lane] for lane in keep])

    def negative_rates(self, factors: Sequence[float]) -> Tensor:
        """-eta of every lane at each of these factors of it, [factors, lanes] on the parameters' device."""
        etas, by = (torch.tensor(values, dtype=torch.float64) for values in (self.etas, factors))
        return devices.send((-etas * by[:, None]).float(), self.parameters[0].device)

    def step(self, factor: float) -> None:
        """One update at eta * factor from the parameters' `grad`, which this uses up."""
        if factor != self.factor:
            self.factor, self.at_factor = factor, self.negative_rates([factor])[0]
        self.step_at(self.at_factor)

    @torch.no_grad()
    def step_at(self, negative_rates: Tensor) -> None:
        """The same at -eta of each lane [lanes], a row of `negative_rates`; the host need not know its values."""
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
        """What an update of each parameter needs of the rates, each [lanes]; called once an update."""
        return (negative_rates,)

    @abc.abstractmethod
    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        """Update one parameter; its gradient may be overwritten.

        Args:
            index: of the parameter.
            parameter: [lanes, ...].
            gradient: of the same shape.
            decay: its weight decay.
            step_sizes: those of `_step_sizes`, each [lanes, 1, ...].
        """


def of_lanes(values: Tensor, like: Tensor) -> Tensor:
    """A value for each lane [lanes], shaped to broadcast over a tensor [lanes, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


class LaneSGD(LaneOptimizer):
    """v <- momentum * v + (gradient + weight_decay * theta); theta <- theta - eta * v, for every parameter.

    As `torch.optim.SGD`: eta multiplies the velocity. Without momentum v is the gradient. By Nesterov's rule theta
    moves by the gradient + momentum * v.

    Args:
        parameters, etas, weight_decay: as `LaneOptimizer` has them.
        momentum: 0 for none.
        nesterov: whether it goes by Nesterov's rule.
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

    @property
    def is_plain(self) -> bool:
        """Whether all parameters decay, by the whole gradient, and move by it or by the velocity."""
        return not (self.nesterov or self.undecayed or self.clip_norm)

    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        [negative_rate] = step_sizes
        # Not parameter * (1 - eta * weight_decay): in float32 that factor is 1 where eta is small.
        change = gradient.add_(parameter, alpha=decay)
        if self.state:
            velocity = self.state[index].mul_(self.momentum).add_(change)
            change = change.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        parameter.addcmul_(change, negative_rate)


class LaneAdam(LaneOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) and AdamW (Loshchilov & Hutter 2019, algorithm 2), as torch.optim has them.

    Args:
        parameters, etas, weight_decay: as `LaneOptimizer` has them.
        betas: of the running means of the gradient and of its square.
        eps: added to the root of the latter.
        decoupled: whether weights decay by eta * weight_decay, as in AdamW, and not by their part of the gradient.
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
        self.state = [*means, count]  # on the device: a recorded update has no number of the host's

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
    """Lion (Chen et al. 2023, algorithm 2): by the sign of a mean of the gradient, and decoupled weight decay.

    Args:
        parameters, etas, weight_decay: as `LaneOptimizer` has them.
        betas: of the mean whose sign is taken, and of the mean that is remembered.
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
        setting: of the runs.
        model: of the lanes.
        parameters: of it, each [lanes, ...].
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
    """Indices of the parameters that do not decay.

    Args:
        model: of the lanes.
        kinds: `norms`, all parameters of layers with norm in the name of their class, and `biases`, of other layers.
    """
    model = model.model if isinstance(model, lanes.Alone) else model

    def kind(name: str) -> str:
        layer, _, last = name.rpartition(".")
        is_norm = "norm" in type(model.get_submodule(layer)).__name__.lower()
        return "norms" if is_norm else "biases" if last.endswith("bias") else ""

    return frozenset(index for index, (name, _) in enumerate(model.named_parameters()) if kind(name) in kinds)
