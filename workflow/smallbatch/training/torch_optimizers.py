"""Optimisers of torch.optim by name: one for each lane, on the lane's part of each parameter."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smallbatch import models
from smallbatch.study.experiments import OF_TORCH
from smallbatch.study.yaml_validation import suggestion
from smallbatch.training.lane_optimizer import LaneOptimizer

STUDY_ARGUMENTS = ("params", "lr", "weight_decay")
"""Arguments that a study sets by keys of their own."""

REFUSED_ARGUMENTS = ("foreach", "fused", "capturable", "differentiable", "maximize")
"""Arguments of the implementation, and `maximize`, which are not the user's."""


class LaneTorch(LaneOptimizer):
    """An optimiser of torch.optim, which keeps its tensors in `state` as all optimisers of lanes do.

    Args:
        parameters, etas, weight_decay: as in `LaneOptimizer`.
        name: `torch:NAME(argument=value, ...)`.

    Attributes:
        state: one tensor [lanes, ...] for each parameter and entry of the optimiser's state, then the number of updates
            of each parameter, [lanes, parameters]; all zeros before the first update.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], etas: Sequence[float], weight_decay: float, name: str
    ) -> None:
        self.name, self.betas = name, ()
        self._optimizers: list[torch.optim.Optimizer] = []
        self._parts: list[list[Tensor]] = []
        self.templates = [_state_template(name, parameter[0], weight_decay) for parameter in parameters]
        super().__init__(parameters, etas, weight_decay)
        tensors = [
            torch.zeros(len(parameter), *tensor.shape, dtype=tensor.dtype, device=tensor.device)
            for parameter, template in zip(parameters, self.templates, strict=True)
            for tensor in template.values()
        ]
        self.state = [*tensors, torch.zeros(len(etas), len(parameters), dtype=torch.int64)]

    @property
    def state(self) -> list[Tensor]:
        """See above."""
        return self._state

    @state.setter
    def state(self, tensors: list[Tensor]) -> None:
        self._state, self._optimizers, self._parts = tensors, [], []

    def use_parameters(self, parameters: Sequence[nn.Parameter], etas: Sequence[float]) -> None:
        """As documented in `LaneOptimizer`."""
        super().use_parameters(parameters, etas)
        self._optimizers, self._parts = [], []

    @torch.no_grad()
    def step_at(self, negative_rates: Tensor) -> None:
        """As documented in `LaneOptimizer`, on the host."""
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        rates = (-negative_rates.double()).tolist()
        self._optimizers = self._optimizers or [self._optimizer_of_lane(lane, rate) for lane, rate in enumerate(rates)]
        for lane, (optimizer, rate) in enumerate(zip(self._optimizers, rates, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for part, parameter in zip(self._parts[lane], self.parameters, strict=True):
                part.grad = None if parameter.grad is None else parameter.grad[lane]
            optimizer.step()
            self._store_state(lane, optimizer)

    def _optimizer_of_lane(self, lane: int, rate: float) -> torch.optim.Optimizer:
        """The optimiser of a lane, which continues from its state."""
        parts = [parameter.detach()[lane] for parameter in self.parameters]
        self._parts.append(parts)
        decayed = [part for index, part in enumerate(parts) if index not in self.undecayed]
        others = [part for index, part in enumerate(parts) if index in self.undecayed]
        groups = [
            {"params": group, **decay} for group, decay in ((decayed, {}), (others, {"weight_decay": 0.0})) if group
        ]
        optimizer = _made(self.name, groups, rate, self.weight_decay)
        for part, values, updates in zip(parts, self._state_views(lane), self.state[-1][lane].tolist(), strict=True):
            if updates:
                optimizer.state[part] = values
        return optimizer

    def _state_views(self, lane: int) -> list[dict[str, Tensor]]:
        """For each parameter what is template of a lane, by name, in the memory of `state`."""
        tensors = iter(self.state)
        return [{name: next(tensors)[lane] for name in template} for template in self.templates]

    def _store_state(self, lane: int, optimizer: torch.optim.Optimizer) -> None:
        """Copy into `state` what the optimiser has made anew, and let it continue on that."""
        for index, (part, values) in enumerate(zip(self._parts[lane], self._state_views(lane), strict=True)):
            if part.grad is None:
                continue
            self.state[-1][lane, index] += 1
            for name, tensor in values.items():
                if optimizer.state[part][name].data_ptr() != tensor.data_ptr():
                    optimizer.state[part][name] = tensor.copy_(optimizer.state[part][name])

    def _update(
        self, index: int, parameter: nn.Parameter, gradient: Tensor, decay: float, step_sizes: Sequence[Tensor]
    ) -> None:
        raise NotImplementedError("torch updates all parameters of a lane at once")


def why_not_allowed(name: str, weight_decay: float) -> str:
    """What is allowed instead, as text, if an optimiser cannot be used; else empty.

    Args:
        name: `torch:NAME(argument=value, ...)`.
        weight_decay: weight decay of the runs.
    """
    known = _known()
    base = models.base_name(name).removeprefix(OF_TORCH)
    if base not in known:
        return f"of torch.optim {', '.join(known)}{suggestion(base, list(known))}"
    taken = inspect.signature(known[base]).parameters
    for argument in models.arguments(name):
        if argument not in taken or argument in (*STUDY_ARGUMENTS, *REFUSED_ARGUMENTS):
            own = [each for each in taken if each not in (*STUDY_ARGUMENTS, *REFUSED_ARGUMENTS)]
            return f"the arguments {', '.join(own)}{suggestion(argument, own)}; lr and weight_decay are settings"
    for argument, value in models.arguments(name).items():
        if not _of_one_type(taken[argument].default, value):
            return f"{argument}={taken[argument].default!r} or another value of that type"
    if weight_decay and "weight_decay" not in taken:
        return f"weight_decay: 0 with {base}, which has none"
    try:
        for shape in ((2, 3, 2, 2), (3, 2), (3,)):
            _state_template(name, torch.zeros(shape), weight_decay)
    except Exception as error:
        any_shape = "one that updates weights of any shape by their gradients"
        what = "arguments that it takes" if models.arguments(name) else any_shape
        return f"{what} ({' '.join(str(error).split())[:200]})"
    return ""


def follows_rate(name: str) -> bool:
    """Whether updates are none where the rate is 0, as a schedule assumes: some choose their steps by themselves.

    Args:
        name: `torch:NAME(argument=value, ...)`, one that can be used.
    """
    part, before = torch.ones(3), torch.zeros(3)
    optimizer = _made(name, [part], 0.1, 0.0)
    for rate in (0.1, 0.0, 0.0):  # twice, as some take what the rate was before
        before = part.clone()
        part.grad = torch.ones(3)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return torch.equal(part, before)


def _of_one_type(default: object, value: object) -> bool:
    """Whether a value may stand in place of a default; of three betas torch would leave out the last."""
    if isinstance(default, tuple) or isinstance(value, tuple):
        return isinstance(default, tuple) and isinstance(value, tuple) and len(default) == len(value)
    return isinstance(default, bool) == isinstance(value, bool) and not isinstance(value, str)


def _known() -> Mapping[str, type[torch.optim.Optimizer]]:
    return {
        name: kind
        for name, kind in sorted(vars(torch.optim).items())
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }


def _made(name: str, groups: list[Any], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    kind: Callable[..., torch.optim.Optimizer] = _known()[models.base_name(name).removeprefix(OF_TORCH)]
    taken = inspect.signature(kind).parameters
    # Each parameter by itself: sums over several at once are of another order.
    how = {"foreach": False, "weight_decay": weight_decay}
    return kind(groups, lr=rate, **models.arguments(name), **{key: how[key] for key in how if key in taken})


def _state_template(name: str, like: Tensor, weight_decay: float) -> dict[str, Tensor]:
    """The tensors that the optimiser keeps for a parameter like this, as they are after an update.

    Raises:
        ValueError: it keeps something else from one update to the next.
        Exception: of torch, if the optimiser does not update such a parameter.
    """
    part = torch.zeros_like(like)
    part.grad = torch.zeros_like(like)
    optimizer = _made(name, [part], 0.1, weight_decay)
    optimizer.step()
    template = {key: value for key, value in optimizer.state[part].items() if value is not None}
    for key, value in template.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"it keeps {key}, which is no tensor")
    return template
