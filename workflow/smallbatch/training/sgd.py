"""Plain SGD and SGD with momentum on lanes, each with its own learning rate."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smallbatch.training.resources import device as devices


class LaneSGD:
    """v <- momentum * v + (gradient + weight_decay * theta); theta <- theta - eta * v, for every parameter.

    All parameters decay, but those without a gradient stay as they are; eta multiplies the velocity, as in
    `torch.optim.SGD`. Without momentum v is the gradient.

    Args:
        parameters: each [lanes, ...].
        etas: learning rate of each lane, for the gradient of the mini-batch mean.
        weight_decay: of the loss, not of the update.
        momentum: 0 for none.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], etas: Sequence[float], weight_decay: float, momentum: float
    ) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self.velocity = [torch.zeros_like(parameter) for parameter in parameters] if momentum else []
        self.use_parameters(parameters, etas)

    def use_parameters(self, parameters: Sequence[nn.Parameter], etas: Sequence[float]) -> None:
        """Go on with these parameters and their rates; the velocities stay as they are."""
        self.parameters, self.etas, self.factor = list(parameters), list(etas), -1.0

    def select(self, parameters: Sequence[nn.Parameter], keep: list[int]) -> None:
        """Go on with only the lanes of these indices, whose parameters are now `parameters`."""
        self.velocity = [velocity[keep].clone() for velocity in self.velocity]
        self.use_parameters(parameters, [self.etas[lane] for lane in keep])

    def negative_rates(self, factors: Sequence[float]) -> Tensor:
        """-eta of every lane at each of these factors of it, [factors, lanes] on the parameters' device."""
        etas, by = (torch.tensor(values, dtype=torch.float64) for values in (self.etas, factors))
        return devices.send((-etas * by[:, None]).float(), self.parameters[0].device)

    def step(self, factor: float) -> None:
        """One update at eta * factor from the parameters' `grad`, which this uses up."""
        if factor != self.factor:
            self.factor, self.shaped = factor, self._shaped(self.negative_rates([factor])[0])
        self._update(self.shaped)

    def step_at(self, negative_rates: Tensor) -> None:
        """The same at -eta of each lane [lanes], a row of `negative_rates`; the host need not know its values."""
        self._update(self._shaped(negative_rates))

    @torch.no_grad()
    def _update(self, negative_rates: Sequence[Tensor]) -> None:
        for index, (parameter, negative_rate) in enumerate(zip(self.parameters, negative_rates, strict=True)):
            if parameter.grad is None:
                continue
            # Not parameter * (1 - eta * weight_decay): in float32 that factor is 1 where eta is small.
            change = parameter.grad.add_(parameter, alpha=self.weight_decay)
            if self.velocity:
                change = self.velocity[index].mul_(self.momentum).add_(change)
            parameter.addcmul_(change, negative_rate)

    def _shaped(self, negative_rates: Tensor) -> list[Tensor]:
        """Negative rates [lanes] for each parameter, shaped to broadcast."""
        return [negative_rates.view(-1, *[1] * (parameter.dim() - 1)) for parameter in self.parameters]
