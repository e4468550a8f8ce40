"""Calls of kernels, as values: what each gets, and what it is compiled for."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
import triton
from torch import Tensor

from smallbatch.core.environment import processors


class Given(Enum):
    """Arguments that are another tensor at each step."""

    IMAGES, LABELS, NEGATIVE_RATES, LOSSES = (auto() for _ in range(4))


@dataclass(frozen=True)
class Launch:
    """One call of a kernel.

    grid: programs along each axis.
    arguments: tensors, numbers and what is `Given`, by name.
    constants: what the kernel is compiled for.
    beside: whether it may run beside what follows.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    beside: bool = False

    def run(self, given: Mapping[Given, Tensor]) -> None:
        """Launch it."""
        self.kernel[self.grid](**self._all(given))

    def compile(self, given: Mapping[Given, Tensor]) -> None:
        """Compile it for such arguments, without launching it."""
        self.kernel.warmup(**self._all(given), grid=self.grid)

    def _all(self, given: Mapping[Given, Tensor]) -> dict[str, Any]:
        arguments = {
            name: given[value] if isinstance(value, Given) else value for name, value in self.arguments.items()
        }
        return arguments | self.constants


def compiled(launches: Sequence[Launch], device: torch.device) -> None:
    """Compile the kernels of launches at the same time, on as many processors as there are; on a GPU alone."""
    if device.type != "cuda":
        return
    floats = torch.empty(1, device=device)
    given = dict.fromkeys(Given, floats) | {Given.LABELS: floats.long()}
    with torch.cuda.device(device), ThreadPoolExecutor(processors()) as pool, triton.AsyncCompileMode(pool):
        for launch in launches:
            launch.compile(given)
