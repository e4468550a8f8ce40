"""The learning-rate convention, defined here alone.

SGD on the mini-batch mean uses eta: theta <- theta - eta * (1/m) * sum_i grad L_i. The paper's base learning rate is
eta_base = eta / m, the rate of SGD on the sum (Masters & Luschi 2018, section 2). Holding eta_base while m changes is
the linear scaling rule. With the square-root rule, which keeps the variance of an update, eta_base = eta / sqrt(m).
Without scaling eta_base = eta, whatever m. This holds for every optimiser: eta is the `lr` of `torch.optim`.
"""

import math
import re
from typing import NewType

BaseLr = NewType("BaseLr", float)
"""eta / m: the step for each example's gradient. With square-root scaling eta / sqrt(m); without scaling eta."""

LearningRate = NewType("LearningRate", float)
"""eta: the step for the gradient of the mini-batch mean."""

_POWER = re.compile(r"2\^(-?\d+)")


def learning_rate(base_lr: BaseLr, batch_size: int, scaling: str = "linear") -> LearningRate:
    """eta = eta_base * m; eta_base * sqrt(m) with `scaling` `sqrt`, and eta_base with `none`."""
    factors = {"linear": batch_size, "sqrt": math.sqrt(batch_size), "none": 1}
    return LearningRate(base_lr * factors[scaling])


def parse_base_lr(text: str | float) -> BaseLr:
    """Read a base learning rate as studies write it: `2^-8` or a plain number."""
    power = _POWER.fullmatch(str(text))
    return BaseLr(2.0 ** int(power[1]) if power else float(text))


def format_base_lr(base_lr: float) -> str:
    """Write a base learning rate as studies do: `2^-8` where it is a power of two, else the plain number."""
    mantissa, exponent = math.frexp(base_lr)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{base_lr:g}"
