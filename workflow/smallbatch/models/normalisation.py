"""Normalisation by name. Batch normalisation computes its statistics over sub-batches of b <= m examples."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 1280
"""Number of examples that running statistics average over, for every m (at least one batch): 10 batches of 128, the
common default. A fixed number of batches instead would give large m statistics of long outdated weights."""

GROUP_CHANNELS = 8
"""Channels per group in group normalisation (our choice: the paper has none)."""

Norm = Callable[[int], nn.Module]
"""Makes a layer's normalisation from its number of channels."""


class BatchNorm(nn.Module):
    """Batch normalisation of [m, channels, ...] over sub-batches of `sub_batch` examples ("ghost" batches).

    Example i belongs to sub-batch i // sub_batch. Each sub-batch is normalised by its own mean and (biased) variance;
    the running statistics take the mean over the sub-batches. Source: Ioffe & Szegedy 2015; sub-batches as in
    Masters & Luschi 2018, section 3.6.

    Attributes:
        momentum: momentum of the running statistics at the next micro-batch, see `micro_batch_momenta`; None if that is
            the whole mini-batch.
        group: processes whose examples form a sub-batch together with this process's; None if a process has it all.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float | None = None
    group: dist.ProcessGroup | None = None

    def __init__(self, channels: int, sub_batch: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.sub_batch, self.eps = sub_batch, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [m, channels, ...]; in training m must be a multiple of the sub-batch."""
        # Parameters may have a leading dimension of lanes, which x folds into its channels.
        weight, bias = self.weight.flatten(), self.bias.flatten()
        mean, var = self.running_mean.flatten(), self.running_var.flatten()
        if not self.training:
            return F.batch_norm(x, mean, var, weight, bias, eps=self.eps)
        momentum = micro_batch_momenta([len(x)], len(x))[0] if self.momentum is None else self.momentum
        if self.group:
            return _synchronised(x, mean, var, weight, bias, momentum, self.eps, self.group)
        ghosts = len(x) // self.sub_batch
        if ghosts == 1:
            # flatten() of a contiguous buffer is a view, so the running statistics are updated in place.
            return F.batch_norm(x, mean, var, weight, bias, True, momentum, self.eps)
        # Sub-batches become additional channels: [b, ghosts * channels, ...].
        folded = x.unflatten(0, (ghosts, self.sub_batch)).transpose(0, 1).flatten(1, 2)
        means, variances = mean.repeat(ghosts), var.repeat(ghosts)
        y = F.batch_norm(folded, means, variances, weight.repeat(ghosts), bias.repeat(ghosts), True, momentum, self.eps)
        mean.copy_(means.view(ghosts, -1).mean(0))
        var.copy_(variances.view(ghosts, -1).mean(0))
        whole: Tensor = y.unflatten(1, (ghosts, -1)).transpose(0, 1).flatten(0, 1)
        return whole


def micro_batch_momenta(sizes: Sequence[int], batch_size: int) -> list[float]:
    """Momenta of the running statistics for successive micro-batches, so that they end as with all of them at once.

    Args:
        sizes: number of examples of each micro-batch.
        batch_size: m of the whole mini-batch, over all processes.
    """
    weights = [min(1.0, batch_size / WINDOW) * size / sum(sizes) for size in sizes]
    return [weight / (1 - sum(weights[index + 1 :])) for index, weight in enumerate(weights)]


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over processes; so is the gradient, since the losses of all processes depend on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SumOverProcesses.apply(gradient, ctx.group), None


def _synchronised(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Batch normalisation of one sub-batch that is divided equally among the processes of `group`."""
    values = x.float().flatten(2) if x.dim() > 2 else x.float()[:, :, None]
    local = torch.stack(torch.var_mean(values, (0, 2), correction=0))
    # Variance and mean of every process, [processes, 2, channels]: more exact than sums of squares, which cancel.
    is_ours = torch.arange(group.size(), device=x.device) == group.rank()
    gathered: Tensor = _SumOverProcesses.apply(is_ours[:, None, None] * local, group)
    variances, means = gathered.unbind(1)
    group_mean = means.mean(0)
    group_var = variances.mean(0) + (means - group_mean).square().mean(0)
    with torch.no_grad():
        count = group.size() * len(values) * values.shape[2]
        mean.lerp_(group_mean, momentum)
        var.lerp_(group_var * (count / (count - 1)), momentum)
    scale = weight * (group_var + eps).rsqrt()
    y = (values - group_mean[:, None]) * scale[:, None] + bias[:, None]
    return y.to(x.dtype).view_as(x)


class Norms(NamedTuple):
    """Functions that make a model's normalisation after convolutions and after hidden fully connected layers."""

    conv: Norm
    hidden: Norm


def norms(name: str, layers: str, sub_batch: int) -> Norms:
    """The functions that make a model's normalisation layers.

    Args:
        name: none, batch, group, or own (the model has its own normalisation and gets none from here).
        layers: all, or conv for convolutions only.
        sub_batch: b, the examples that batch statistics are taken over.
    """
    makers: dict[str, Norm] = {
        "none": lambda channels: nn.Identity(),
        "own": lambda channels: nn.Identity(),
        "batch": lambda channels: BatchNorm(channels, sub_batch),
        "group": lambda channels: nn.GroupNorm(channels // math.gcd(channels, GROUP_CHANNELS), channels),
    }
    return Norms(makers[name], makers[name if layers == "all" else "none"])
