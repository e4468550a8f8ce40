"""The learning rate over a training, as a factor of eta."""

import math
from dataclasses import dataclass

WARMUP_FRACTION, WARMUP_START = 0.05, 1 / 32
"""Warm-up rises linearly from eta / 32 to eta over the first 5 % of training (Masters & Luschi 2018, section 3.4)."""


@dataclass(frozen=True)
class Schedule:
    """A step schedule with or without warm-up.

    steps: of the whole training.
    drops: fractions of training at which the rate falls to a tenth.
    """

    steps: int
    drops: tuple[float, ...]
    warmup: bool

    def __call__(self, step: int) -> float:
        """The factor of eta for the update `step`, counted from 0."""
        factor = 0.1 ** sum(step >= math.ceil(drop * self.steps) for drop in self.drops)
        rising = math.ceil(WARMUP_FRACTION * self.steps) if self.warmup else 0
        if step < rising:
            factor *= WARMUP_START + (1 - WARMUP_START) * step / rising
        return factor
