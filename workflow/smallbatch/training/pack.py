"""Packs: the runs that one job trains, in groups of lanes."""

import contextlib
import functools
import gc
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from smallbatch import models
from smallbatch.analysis.statistics import final_accuracy
from smallbatch.core import environment, signals
from smallbatch.core.errors import Stopped, UserError
from smallbatch.data import prepared
from smallbatch.data.dataset_info import size_of
from smallbatch.runs.bundles import import_published
from smallbatch.runs.heartbeat import HeartbeatWriter
from smallbatch.runs.packs import lane_key
from smallbatch.runs.records import Outcome, Record
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run
from smallbatch.study.metrics import LABELS
from smallbatch.training import distributed, variance
from smallbatch.training.checkpoint_compatibility import State
from smallbatch.training.checkpoint_folder import CheckpointFolder
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.network import TooLarge, too_large
from smallbatch.training.own_models import max_lanes
from smallbatch.training.progress import Progress
from smallbatch.training.resources import device as devices
from smallbatch.training.resources import processor_binding
from smallbatch.training.resources.lane_count import best_lane_count, save_limit, training_kind
from smallbatch.training.resources.memory import MemoryBudget, free_for
from smallbatch.training.trainer import LaneTrainer

log = logging.getLogger(__name__)


@signals.catching_signals()
def train_pack(
    runs: Sequence[Run],
    data_folder: Path,
    results: Path,
    *,
    device: str = "auto",
    lanes: int | str = "auto",
    keep_weights: str = "best",
    images_at_once: int | str = "auto",
    memory_mb: int | None = None,
    heartbeat: str | None = None,
) -> int:
    """Train those runs of a pack that are not in the store; returns their number.

    Processes started by `torchrun` train them together: each calls this with the same arguments. SIGTERM, SIGINT or
    SIGHUP end it with a checkpoint after the current updates; a second signal ends it at once.

    Args:
        runs: runs of one data set.
        data_folder: folder of its prepared arrays.
        results: the folder of the run store and of the checkpoints of trainings in progress.
        device: auto, cpu, cuda or cuda:N.
        lanes: number of lanes, or auto.
        keep_weights: all, best (of the seeds of each cell) or none.
        images_at_once: images of each lane in memory; auto: as many of a mini-batch as fit. It changes only rounding.
        memory_mb: memory limit of the job, in 10^6 bytes; None: its share. A GPU's own memory is not limited.
        heartbeat: file for progress; None for no file.

    Raises:
        UserError: the device is missing or too small, processes cannot share the runs, or files cannot be written.
        Stopped: a signal requested it.
    """
    world, chosen = distributed.join(device)
    for run in runs:
        if run.base_lr is None or not run.base_lr > 0:
            raise UserError(f"base_lrs.best_of: no rate was chosen for m = {run.batch_size}; no run trains without one")
        distributed.check(run, world)
        variance.check(run)
    data, store = prepared.read(data_folder), RunStore(results)
    meta = data.meta
    dataset = size_of(meta)
    # Asked here: once bound to a processor of its own, this process sees only that one.
    at_work = environment.processors()
    free = free_for(chosen, memory_mb, world.size, at_work)
    budget = MemoryBudget(free, chosen, world, dataset, meta.photos is not None, images_at_once)
    job = _Job(data, store, results / "checkpoints", budget, at_work, lanes, keep_weights)
    missing = world.broadcast(lambda: job.missing(runs))
    for run in missing:
        devices.check_precision(run.setting.precision, chosen)
    log.info("%d runs, %d of them to be trained, on %s", len(runs), len(missing), chosen)
    if missing and world.is_main and (incomplete := environment.git_commit()[1]):
        log.info("%s", incomplete)
    writer = HeartbeatWriter(Path(heartbeat) if heartbeat and world.is_main else None)
    writer.update(device=str(chosen))
    job.progress = Progress(sum(job.images(run) for run in missing), shown=world.is_main, writer=writer)
    with writer, job.processor():
        for _, members in itertools.groupby(sorted(runs, key=lane_key), key=lane_key):
            job.train_compatible(list(members))
            if keep_weights == "best" and world.is_main:
                job.keep_best_of_cells(runs)
    return len(missing)


@dataclass
class _Job:
    """What the groups of a pack have in common.

    at_work: number of processors that train at the same time.
    lanes, keep: as in `train_pack`.
    """

    data: prepared.Prepared
    store: RunStore
    checkpoints: Path
    budget: MemoryBudget
    at_work: int
    lanes: int | str
    keep: str

    def __post_init__(self) -> None:
        self.fingerprint = self.data.meta.fingerprint
        self.device, self.world, self.dataset = self.budget.device, self.budget.world, self.budget.dataset
        self.environment = environment.describe()
        self.progress = Progress(0, shown=False)

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that are not in the store; damaged ones are set aside and named, or restored from a bundle."""
        damaged = [words for run in runs if (words := self.store.clear(run, self.fingerprint))]
        for words in damaged:
            log.warning("%s", words)
        if damaged:
            import_published(self.store)
        return [run for run in runs if not self.has(run)]

    def has(self, run: Run) -> bool:
        return self.store.has(run, self.fingerprint)

    def images(self, run: Run) -> int:
        return run.setting.images_and_epochs(run.batch_size, run.setting.train_images or self.data.meta.train)[0]

    def processor(self) -> contextlib.AbstractContextManager[object]:
        """Context that binds this process to a processor; no effect for photos, which use all of them, and GPUs."""
        bound = self.device.type == "cpu" and self.data.meta.photos is None
        return processor_binding.bound_processor() if bound else contextlib.nullcontext()

    def train_compatible(self, runs: list[Run]) -> None:
        """Train the missing ones of compatible runs: first groups that some job has begun, then the rest."""
        self.world.stop_if_asked()
        folder = CheckpointFolder(self.checkpoints, runs[0], self.fingerprint)
        if not self.world.broadcast(lambda: folder.path.exists() or bool(self.missing(runs))):
            return
        with (
            folder.locked(title(runs), self.progress.report_waiting) if self.world.is_main else contextlib.nullcontext()
        ):
            while groups := self.world.broadcast(lambda: self._groups(runs, folder)):
                for path in groups:
                    self.world.stop_if_asked()
                    self._train_group(folder, path)

    def _groups(self, runs: list[Run], folder: CheckpointFolder) -> list[Path]:
        """The checkpoints of groups to train: those already begun, else new groups of the missing runs."""
        begun = folder.unfinished(lambda run: not self.has(run))
        pending = [path for path, lanes in begun.items() if set(runs) & {run for run in lanes if not self.has(run)}]
        missing = [] if pending else self.missing(runs)
        size = self._lane_count(missing) if missing else 1
        groups = [missing[start : start + size] for start in range(0, len(missing), size)]
        return pending or [folder.create({"runs": [run.settings for run in group]}) for group in groups]

    def _lane_count(self, runs: list[Run]) -> int:
        """How many of these compatible runs to train as lanes."""
        most, _ = self.budget.lanes_that_fit(runs)
        most = max_lanes(runs[0].setting, self.dataset, most)
        if isinstance(self.lanes, int):
            return min(self.lanes, most)
        return best_lane_count(self.world.local_run(runs[0]), most, self.dataset, self.device, self.at_work, self.world)

    def _train_group(self, folder: CheckpointFolder, path: Path) -> None:
        """Train a group from its checkpoint to the end; a group that does not fit in memory is split in two halves."""
        checkpoint = Checkpoint(path)
        state = self.world.broadcast(checkpoint.load)
        if state is None:
            return  # damaged since it was found
        runs = [Run.from_settings(settings) for settings in state["runs"]]
        with _failing(runs[0].setting.model):
            self._train_in_memory(folder, checkpoint, state, runs)

    def _train_in_memory(self, folder: CheckpointFolder, checkpoint: Checkpoint, state: State, runs: list[Run]) -> None:
        most, images_at_once = self.world.broadcast(lambda: self.budget.lanes_that_fit(runs))
        if len(runs) <= most:
            try:
                return self._train(runs, checkpoint, state, images_at_once)
            except TooLarge:
                # Processes that share mini-batches wait for one another, and cannot all return from here.
                if len(runs) == 1 or self.world.size > 1:
                    raise
            self._forget(runs)
        log.info("%s: too large for the memory, goes on as two halves", title(runs))
        if self.world.is_main:
            folder.split_in_half(checkpoint.path, checkpoint.load() or state)

    def _train(self, runs: list[Run], checkpoint: Checkpoint, state: State, images_at_once: int | str) -> None:
        try:
            training = LaneTrainer(runs, self.data, self.device, self.world, images_at_once)
            if "model" in state:
                if incompatible := training.state.why_incompatible(state):
                    if self.world.is_main:
                        checkpoint.refuse(incompatible)
                    return  # its runs are still missing, and start again
                training.restore(state)
                log.info("resumed at epoch %d, step %d", training.state.epoch, training.state.step)
            training.trained_in(self.environment)
            if changed := environment.differences(training.state.environments):
                log.warning("%s: resumed elsewhere than it began: %s; its records say so", title(runs), changed)
            need = self.budget.need(runs[0]).bytes(len(runs), training.state.network.micro_batch)
            log.info("%s: needs up to %.0f MB, %.0f MB are available", title(runs), need / 1e6, self.budget.size / 1e6)
            epochs = training.epochs
            names = [run.name(self.fingerprint) for run in runs]
            images, score = self.images(runs[0]) // epochs, LABELS[runs[0].setting.primary_metric]
            self.progress.begin(title(runs), names, epochs, images, training.state.epoch, score)
            finish = functools.partial(self._finish, environment.merge(training.state.environments))
            training.train(finish, checkpoint, self.progress)
        except torch.OutOfMemoryError as error:
            raise too_large(self.world.local_run(runs[0]).batch_size, len(runs)) from error
        self.progress.end()
        if self.world.is_main:
            checkpoint.remove()

    def _forget(self, runs: list[Run]) -> None:
        """Free a training that did not fit into memory, and store half its number of lanes as a limit."""
        self.progress.abandon()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        kind = training_kind(self.world.local_run(runs[0]), self.dataset, self.device, self.at_work)
        save_limit(kind, len(runs) // 2)

    def _finish(self, trained_in: dict[str, str], run: Run, outcome: Outcome, weights: bytes | None) -> None:
        name = run.name(self.fingerprint)
        # A group resumed after some of its runs were stored trains them again: the rounding depends on all lanes.
        if not self.world.is_main or self.has(run):
            return
        kept = None if self.keep == "none" else weights
        self.store.write(run, self.fingerprint, outcome, trained_in, kept)
        end = f"diverged at update {outcome.diverged_at}" if outcome.diverged_at else _reached(run, outcome)
        log.info("%s: %s, %.1f s", name, end, outcome.seconds)

    def keep_best_of_cells(self, runs: Sequence[Run]) -> None:
        """Of each cell's runs, keep only the weights of the best."""
        cells: dict[tuple[object, ...], list[Record]] = {}
        for run in runs:
            record = self.store.find(run, self.fingerprint)
            if record and record.outcome.diverged_at is None:
                cells.setdefault((lane_key(run), run.base_lr), []).append(record)
        for members in cells.values():
            best = max(members, key=lambda record: final_accuracy(record.outcome.epochs))
            for record in members:
                if record is not best:
                    self.store.drop_weights(record)


@contextlib.contextmanager
def _failing(model: str) -> Iterator[None]:
    """Report in one line an error of a user's model, such as at a size that its check did not try."""
    try:
        yield
    except (UserError, Stopped, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not models.is_own(model):
            raise
        log.info("model %s", model, exc_info=True)  # location in its file
        with models.errors_in_one_line(model, "its training fails"):
            raise error


def title(runs: Sequence[Run]) -> str:
    """A short description of a group of lanes."""
    run, s = runs[0], runs[0].setting
    norm = "" if s.norm == "none" else f" {s.norm} norm b={run.bn_batch_size}"
    return f"{s.model}{norm} on {s.data}, m={run.batch_size}, {len(runs)} lane{'s' * (len(runs) > 1)}"


def _reached(run: Run, outcome: Outcome) -> str:
    """`accuracy 97.5 %`."""
    return f"{LABELS[run.setting.primary_metric]} {100 * final_accuracy(outcome.epochs):.1f} %"
