"""The number of runs to train as lanes: measured once for each kind of training, and cached.

With kernels of our own, all runs of a kind form one group: kernels for processors process one lane after the other, so
that more lanes only save the overhead of a group; those for GPUs process all lanes at once.

The results are in one JSON file in the user's cache folder. It may be deleted at any time, and is ignored if it cannot
be read or written.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from smallbatch.core import signals
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest, read_sealed, set_aside_cache_file, write_sealed
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.study.experiments import Run
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines.native import engine as native
from smallbatch.training.engines.triton_kernels import engine as triton
from smallbatch.training.resources import device as devices
from smallbatch.training.resources.throughput import benchmark_runs, best_training_speed, random_dataset

CPU_LANES, GPU_LANES = 16, 64
"""Maximum number of lanes."""

SECONDS = 0.1
"""Minimum duration of a measurement for a number of lanes, in seconds."""

LONG_STEP = 0.025
"""Duration of a step, in seconds, from which more lanes are not tried. More lanes save only the overhead of operations:
some milliseconds per step, whatever the number of lanes."""

TIE, FALL = 0.03, 0.05
"""Fractions of the best throughput: the minimum gain that justifies more lanes, and the drop that ends the search."""

MAX_KINDS = 5000
"""Maximum number of kinds of training in the file; the oldest ones are removed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingKind:
    """Everything that the throughput of lanes depends on.

    device: name of the device.
    processors: number of processors that train at the same time.
    code: hash of the code that trains.
    momentum: whether momentum is used.
    m, b: batch size, and sub-batch of batch normalisation.
    """

    device: str
    torch: str
    processors: int
    code: str
    model: str
    norm: str
    norm_layers: str
    optimizer: str
    loss: str
    momentum: bool
    precision: str
    shape: tuple[int, int, int]
    classes: int
    m: int
    b: int

    @property
    def key(self) -> str:
        """All fields as one line of text."""
        return json.dumps(asdict(self), sort_keys=True)


def training_kind(run: Run, dataset: DatasetInfo, device: torch.device, processors: int) -> TrainingKind:
    """The kind of training of a run.

    Args:
        run: a run, or a `local_run`.
        dataset: data set of the run.
        device: device to run on.
        processors: number of processors that train at the same time.
    """
    s = run.setting
    return TrainingKind(
        device=devices.describe(device)["device"],
        torch=torch.__version__,
        processors=processors,
        code=_code(),
        model=s.model,
        norm=s.norm,
        norm_layers=s.norm_layers,
        optimizer=s.optimizer,
        loss=s.loss_function or s.loss,
        momentum=s.momentum > 0,
        precision=s.precision,
        shape=dataset.shape,
        classes=dataset.classes,
        m=run.batch_size,
        b=run.bn_batch_size if s.norm == "batch" else run.batch_size,
    )


@functools.cache
def _code() -> str:
    library = Path(__file__).parents[2]
    return files_digest(*(path for part in ("training", "models") for path in (library / part).rglob("*.py")))


def best_lane_count(
    run: Run, count: int, dataset: DatasetInfo, device: torch.device, processors: int, world: World = ALONE
) -> int:
    """How many of `count` compatible runs to train as lanes: the smallest number that is about as fast as any.

    Unknown throughputs are measured: some tenths of a second for each number of lanes that is tried.

    Args:
        run: one of the runs; if processes share its mini-batches, a `local_run`.
        count: number of compatible runs.
        dataset: data set of the runs.
        device: device to run on.
        processors: number of processors that train at the same time.
        world: the processes that share each mini-batch.
    """
    kind = training_kind(run, dataset, device, processors)
    known = load_throughputs(kind)
    most = min(count, known.most, CPU_LANES if device.type == "cpu" else GPU_LANES)
    if most == 1 or native.layout_of(run, dataset, device, world) or triton.graph_of(run, dataset, device, world):
        return most
    candidates = _candidates(most)
    remembered = dict(known.throughputs)
    _search(candidates, known.throughputs, run.batch_size, lambda lanes: _measure(run, lanes, dataset, device))
    if known.throughputs != remembered:
        save_throughputs(kind, known)
    throughputs = {lanes: known.throughputs[lanes] for lanes in candidates if lanes in known.throughputs}
    chosen = _smallest_fast_count(throughputs)
    log.info(
        "%s %s on %dx%d, m=%d, b=%d: %d lanes are best (%s images/s with %s lanes%s)",
        kind.model, kind.norm, *kind.shape[1:], kind.m, kind.b, chosen,
        ", ".join(f"{throughput:,.0f}" for throughput in throughputs.values()), ", ".join(map(str, throughputs)),
        ", as measured before" if known.throughputs == remembered else "",
    )  # fmt: skip
    return chosen


def _candidates(most: int) -> list[int]:
    """The powers of two below `most`, and `most`."""
    return [1 << power for power in range((most - 1).bit_length())] + [most]


def _search(
    candidates: list[int], throughputs: dict[int, float], batch_size: int, measure: Callable[[int], float]
) -> None:
    """Add missing images/s by number of lanes, from few lanes to many, until more lanes are unlikely to be faster."""
    best, in_vain = 0.0, 0
    for lanes in candidates:
        signals.raise_if_signalled()
        throughput = throughputs[lanes] if lanes in throughputs else throughputs.setdefault(lanes, measure(lanes))
        in_vain = 0 if throughput > best * (1 + TIE) else in_vain + 1
        best = max(best, throughput)
        if in_vain == 2 or throughput < best * (1 - FALL) or lanes * batch_size > LONG_STEP * throughput:
            return


def _measure(run: Run, lanes: int, dataset: DatasetInfo, device: torch.device) -> float:
    """Images/s of `lanes` lanes; 0 if they do not fit the device's memory."""
    data = random_dataset(dataset, max(run.batch_size, 64))
    try:
        return best_training_speed(benchmark_runs(run, lanes), data, device, SECONDS)
    except torch.OutOfMemoryError:
        return 0.0


def _smallest_fast_count(throughputs: Mapping[int, float]) -> int:
    best = max(throughputs.values())
    return min(lanes for lanes, throughput in throughputs.items() if throughput * (1 + TIE) >= best)


@dataclass
class CachedThroughputs:
    """Cached results for a kind of training.

    throughputs: number of lanes -> images/s of all lanes together.
    most: maximum number of lanes that fits into memory, as far as known.
    """

    throughputs: dict[int, float] = field(default_factory=dict)
    most: int = GPU_LANES


def load_throughputs(kind: TrainingKind) -> CachedThroughputs:
    """The cached results for a kind; empty if they are missing or damaged."""
    try:
        entry = _read()[kind.key]
        throughputs = {int(lanes): float(throughput) for lanes, throughput in entry["throughputs"].items()}
        return CachedThroughputs(throughputs, max(1, int(entry["most"])))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return CachedThroughputs()


def save_throughputs(kind: TrainingKind, known: CachedThroughputs) -> None:
    """Cache the results for a kind, if possible; entries written by other processes in the meantime are kept."""
    try:
        with _locked(_file().parent):
            entries = {key: entry for key, entry in _read().items() if key != kind.key} | {kind.key: asdict(known)}
            write_sealed(_file(), dict(list(entries.items())[-MAX_KINDS:]))
    except (UserError, OSError, RuntimeError) as error:
        log.info("what was measured will not be remembered: %s", error)


def save_limit(kind: TrainingKind, lanes: int) -> None:
    """Cache that memory does not hold more than this number of lanes."""
    known = load_throughputs(kind)
    save_throughputs(kind, replace(known, most=min(known.most, lanes)))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that write in `folder`; if folders cannot be locked, an entry may get lost."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read() -> dict[str, Any]:
    """The content of the cache; a damaged file is named and set aside."""
    file = _file()
    if not os.path.lexists(file):
        return {}
    try:
        return read_sealed(file)
    except UserError as error:
        log.warning("%s; speeds are measured again", error)
    with contextlib.suppress(UserError, OSError):
        set_aside_cache_file(file)
    return {}


def _file() -> Path:
    return cache_folder() / "lanes.json"
