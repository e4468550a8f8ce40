"""Optimisers for lanes, each lane with its own learning rate: SGD, Adam and Lion as published."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smallbatch.study.experiments import OF_TORCH, Setting
from smallbatch.training import lane_layers
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.torch_optimizers import LaneTorch


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
    if s.optimizer.startswith(OF_TORCH):
        return LaneTorch(parameters, etas, s.weight_decay, s.optimizer)
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
        kinds: `norms` for all parameters of layers with norm in their class name, `biases` for those of other layers,
            called `bias`, `in_proj_bias` or, in a recurrent layer, `bias_ih_l0`.
    """
    model = model.model if isinstance(model, lane_layers.Alone) else model
    layers = dict(model.named_modules())  # of scripted code, too, whose layers have the name of their class apart

    def kind(name: str) -> str:
        layer, _, last = name.rpartition(".")
        is_norm = "norm" in getattr(layers[layer], "original_name", type(layers[layer]).__name__).lower()
        return "norms" if is_norm else "biases" if last.startswith("bias") or last.endswith("bias") else ""

    return frozenset(index for index, (name, _) in enumerate(model.named_parameters()) if kind(name) in kinds)
