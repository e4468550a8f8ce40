"""Kernel launches as objects: arguments, and constants for which the kernel is compiled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
import triton
from torch import Tensor

from smallbatch.core.environment import processors


class StepTensor(Enum):
    """Arguments that are another tensor in each step."""

    IMAGES, LABELS, NEGATIVE_RATES, LOSSES = (auto() for _ in range(4))


@dataclass(frozen=True)
class Launch:
    """One call of a kernel.

    grid: number of programs along each axis.
    arguments: tensors, numbers and placeholders from `StepTensor`, by name.
    constants: constants for which the kernel is compiled.
    beside: whether it may run in parallel with the following launches.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    beside: bool = False

    def run(self, step_tensors: Mapping[StepTensor, Tensor]) -> None:
        """Launch the kernel."""
        self.kernel[self.grid](**self._all(step_tensors))

    def compile(self, step_tensors: Mapping[StepTensor, Tensor]) -> None:
        """Compile the kernel for such arguments without launching it."""
        self.kernel.warmup(**self._all(step_tensors), grid=self.grid)

    def _all(self, step_tensors: Mapping[StepTensor, Tensor]) -> dict[str, Any]:
        arguments = {
            name: step_tensors[value] if isinstance(value, StepTensor) else value
            for name, value in self.arguments.items()
        }
        return arguments | self.constants


def compiled(launches: Sequence[Launch], device: torch.device) -> None:
    """Compile the kernels of launches in parallel on all available processors; only on a GPU."""
    if device.type != "cuda":
        return
    floats = torch.empty(1, device=device)
    step_tensors = dict.fromkeys(StepTensor, floats) | {StepTensor.LABELS: floats.long()}
    with torch.cuda.device(device), ThreadPoolExecutor(processors()) as pool, triton.AsyncCompileMode(pool):
        for launch in launches:
            launch.compile(step_tensors)
