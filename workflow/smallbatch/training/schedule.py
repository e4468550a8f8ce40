"""The learning rate over a training, as a factor of eta."""

import math
from dataclasses import dataclass

from smallbatch.study.experiments import Setting

ONE_CYCLE_PEAK, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4
"""One-cycle: position of the highest rate, as a fraction of training, and the factors at both ends (as `OneCycleLR` of
torch, after Smith & Topin 2018)."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of a setting, with or without warm-up. Drops are at fractions of the whole training; cosine and
    linear begin where the warm-up ends, and would reach 0 after the last update.

    steps: number of updates of the whole training.
    """

    steps: int
    setting: Setting

    def __call__(self, step: int) -> float:
        """The factor of eta for the update `step`, counted from 0."""
        s = self.setting
        rising = math.ceil(s.warmup_fraction * self.steps) if s.warmup else 0
        ramp = s.warmup_start + (1 - s.warmup_start) * step / rising if step < rising else 1
        return ramp * self._fallen(step, rising)

    def _fallen(self, step: int, rising: int) -> float:
        s, done = self.setting, max(step - rising, 0) / max(self.steps - rising, 1)
        match s.lr_schedule:
            case "drops":
                return s.lr_drop_factor ** sum(step >= math.ceil(drop * self.steps) for drop in s.lr_drops)
            case "cosine":  # Loshchilov & Hutter 2017, without restarts
                return _cosine(1, 0, done)
            case "linear":
                return 1 - done
            case "one-cycle":
                return _one_cycle(step, self.steps)
        raise ValueError(f"there is no schedule {s.lr_schedule}")


def _one_cycle(step: int, steps: int) -> float:
    top = ONE_CYCLE_PEAK * steps - 1
    return (
        _cosine(ONE_CYCLE_START, 1, step / top)
        if step <= top
        else _cosine(1, ONE_CYCLE_END, (step - top) / (steps - 1 - top))
    )


def _cosine(start: float, end: float, done: float) -> float:
    """The value on half a period of a cosine from `start` to `end`, of which the fraction `done` is over."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
