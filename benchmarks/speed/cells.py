"""What is compared: cells, the methods that train them, and the ratios to reach. Knows no torch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from smallbatch.core.errors import refuse


class Target(NamedTuple):
    """Images/s of the engine over those of the usual loop: the least, and what is aimed for."""

    least: float
    aim: float | None = None


class Group(NamedTuple):
    """Cells that share a panel of the plot."""

    title: str
    model: str
    norm: str
    shape: tuple[int, int, int]
    batch_sizes: tuple[int, ...]


GROUPS = {
    "alexnet": Group("reduced AlexNet, no BN, 3x32x32", "alexnet", "none", (3, 32, 32), (2, 4, 8, 32, 128, 512)),
    "resnet8": Group("ResNet-8, BN, 3x32x32", "resnet8", "batch", (3, 32, 32), (2, 8, 32, 128, 512)),
    "resnet20": Group("ResNet-20, BN, 3x32x32", "resnet20", "batch", (3, 32, 32), (2, 8, 32, 128, 512)),
    "digits": Group("reduced AlexNet, no BN, 1x8x8", "alexnet", "none", (1, 8, 8), (2, 8, 32, 128, 512)),
}
CLASSES = 10
ROW = 13
"""Rates of Figure 1: runs that differ in nothing else."""

ANY, LARGE = Target(1), Target(1.25, 1.6)
"""Of every cell; and of every cell with m = 32 ... 512."""

CPU_TARGETS = {
    ("alexnet", 2): Target(1.65, 3.5),
    ("alexnet", 4): Target(1.65, 2.8),
    ("alexnet", 8): Target(1.65, 2.2),
    ("resnet8", 2): Target(1.75, 3),
    ("resnet20", 2): Target(1.85, 3),
    ("digits", 2): Target(3.5, 8),
}
CUDA_TARGETS = {("alexnet", 2): Target(150, 300)}


class Cell(NamedTuple):
    """A group's model at one batch size m."""

    group: str
    batch_size: int

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return f"{self.group}-m{self.batch_size}"

    def target(self, device: str) -> Target:
        """The ratio to reach on a `cpu` or on `cuda`."""
        if device == "cuda":
            return CUDA_TARGETS.get(self, ANY)
        return CPU_TARGETS.get(self, LARGE if 32 <= self.batch_size <= 512 else ANY)


CELLS = [Cell(group, m) for group, spec in GROUPS.items() for m in spec.batch_sizes]


def selected(words: Sequence[str]) -> list[Cell]:
    """The cells whose name or group is among `words`; all where there are none.

    Raises:
        UserError: a word names no cell.
    """
    for word in words:
        if word not in GROUPS and word not in [cell.name for cell in CELLS]:
            allowed = ", ".join([*GROUPS, *(cell.name for cell in CELLS)])
            refuse("command line", "--cells", word, allowed)
    return [cell for cell in CELLS if not words or cell.group in words or cell.name in words]


class Method(NamedTuple):
    """A way to train, or the matrix products that are the measure of all.

    title: in tables and plots.
    trainer: a function of `trainers`.
    each_core: whether each core has a single-threaded process, or one process has all.
    lanes: whether a process trains runs of a row in lock-step, or one run.
    options: of the trainer.
    """

    title: str
    trainer: str
    each_core: bool = True
    lanes: bool = False
    options: dict[str, Any] = {}  # noqa: RUF012


ENGINE, PEAK = "engine", "peak"
USUAL = ("usual-threads", "usual-cores", "usual-loaders")
"""Forms of the usual loop, of which the better counts."""

PEERS_IN_LANES = ("jax", "grouped")
"""What an expert would write for a GPU, without Dataset and DataLoader."""

LOADERS = 4
"""Processes that load data, where a GPU would wait for them."""

CPU_METHODS = {
    "usual-threads": Method("usual loop, 1 process", "usual", each_core=False),
    "usual-cores": Method("usual loop, 1 process a core", "usual"),
    "compiled": Method("usual loop, torch.compile", "usual", options={"compiled": True}),
    "lightning": Method("PyTorch Lightning", "lightning"),
    ENGINE: Method("this engine", "engine", lanes=True),
    PEAK: Method("matrix products", "products"),
}
CUDA_METHODS = {
    "usual-cores": Method("usual loop", "usual", each_core=False),
    "usual-loaders": Method(f"usual loop, {LOADERS} loaders", "usual", each_core=False, options={"loaders": LOADERS}),
    "compiled": Method("usual loop, torch.compile", "usual", each_core=False, options={"compiled": True}),
    "lightning": Method("PyTorch Lightning", "lightning", each_core=False),
    "jax": Method("JAX, vmap over runs", "vmapped", each_core=False, lanes=True),
    "grouped": Method("torch.compile, runs as groups, CUDA graphs", "grouped", each_core=False, lanes=True),
    ENGINE: Method("this engine", "engine", each_core=False, lanes=True),
    PEAK: Method("matrix products", "products", each_core=False),
}
METHODS = {"cpu": CPU_METHODS, "cuda": CUDA_METHODS}


def methods(device: str, names: Sequence[str] = ()) -> dict[str, Method]:
    """The methods of a device, `cpu` or `cuda`: all, or those that are named.

    Raises:
        UserError: there is no such method.
    """
    there = METHODS[device]
    for name in names:
        if name not in there:
            refuse("command line", "--methods", name, ", ".join(there))
    return {name: method for name, method in there.items() if not names or name in names}
