"""Packs: the runs that one job trains, in groups of lanes."""

import contextlib
import fcntl
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from smallbatch import environment
from smallbatch.analysis.statistics import final_accuracy
from smallbatch.data import prepared
from smallbatch.data.outline import Outline
from smallbatch.packs import row
from smallbatch.store import Outcome, RunStore
from smallbatch.study import Run
from smallbatch.training import device as devices
from smallbatch.training import distributed, processor, variance
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.choice import lanes_for
from smallbatch.training.distributed import World
from smallbatch.training.engine import LaneTraining
from smallbatch.training.progress import Progress

log = logging.getLogger(__name__)


def train_pack(
    runs: Sequence[Run],
    data_folder: Path,
    results: Path,
    *,
    device: str = "auto",
    lanes: int | str = "auto",
    keep_weights: str = "best",
    images_at_once: int | str = "auto",
) -> int:
    """Train those runs of a pack that the store does not have; returns how many those were.

    Processes that `torchrun` started train them together: each calls this with the same arguments.

    Args:
        runs: of one data set.
        data_folder: its prepared arrays.
        results: the folder with the run store `runs/` and the checkpoints of trainings in progress.
        device: auto, cpu, cuda or cuda:N.
        lanes: runs in lock-step, or auto.
        keep_weights: all, best (of the seeds of each cell) or none.
        images_at_once: of each lane, in memory; or auto: as many of a mini-batch as fit. It changes rounding only.

    Raises:
        UserError: the device is not there or too small, processes cannot share the runs, or files cannot be written.
    """
    world, chosen = distributed.join(device)
    for run in runs:
        distributed.check(run, world)
        variance.check(run)
    data = prepared.read(data_folder)
    store = RunStore(results / "runs")
    # Asked now: bound to a processor of its own, this process may use one.
    at_work = environment.processors()
    job = _Job(data, store, results / "checkpoints", chosen, at_work, world, keep_weights, images_at_once)
    missing = world.told(lambda: job.missing(runs))
    log.info("%d runs, %d of them to be trained, on %s", len(runs), len(missing), chosen)
    job.progress = Progress(sum(job.images(run) for run in missing), shown=world.leads)
    with job.processor():
        for group in job.groups(runs, lanes):
            with job.alone_with(group):
                job.train_group(group)
            if keep_weights == "best" and world.leads:
                job.keep_best_of_cells(runs)
    return len(missing)


class _Job:
    """What the groups of a pack share."""

    progress: Progress

    def __init__(
        self,
        data: prepared.Prepared,
        store: RunStore,
        checkpoints: Path,
        device: torch.device,
        at_work: int,
        world: World,
        keep: str,
        images_at_once: int | str,
    ) -> None:
        self.data, self.store, self.checkpoints, self.keep = data, store, checkpoints, keep
        self.device, self.at_work, self.world, self.images_at_once = device, at_work, world, images_at_once
        meta = data.meta
        self.outline = Outline(meta.shape, len(meta.classes), meta.train, meta.test)
        self.fingerprint = data.meta.fingerprint
        self.environment = {**environment.describe(), **devices.describe(device)}

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that the store does not have; damaged ones are set aside and named."""
        for run in runs:
            aside = self.store.clear(run, self.fingerprint)
            if aside:
                log.warning("%s: damaged, set aside as %s", run.name(self.fingerprint), aside)
        return [run for run in runs if not self.store.has(run, self.fingerprint)]

    def groups(self, runs: Sequence[Run], lanes: int | str) -> Iterator[list[Run]]:
        """Cut those rows of a pack that lack runs into groups of lanes; so that a resumed job cuts as the first did,
        all runs of a row are in them."""
        for _, members in itertools.groupby(sorted(runs, key=row), key=row):
            members = list(members)
            if self.world.told(lambda members=members: self.missing(members)):
                size = lanes if isinstance(lanes, int) else self.lanes_for(members)
                yield from (members[start : start + size] for start in range(0, len(members), size))

    def lanes_for(self, runs: Sequence[Run]) -> int:
        """How many runs of a row to train in lock-step."""
        share = replace(runs[0], batch_size=runs[0].batch_size // self.world.size)
        share = replace(share, bn_batch_size=min(runs[0].bn_batch_size, share.batch_size))
        return self.world.told(lambda: lanes_for(share, len(runs), self.outline, self.device, self.at_work))

    def images(self, run: Run) -> int:
        return run.setting.epochs * (run.setting.train_images or self.data.meta.train)

    def processor(self) -> contextlib.AbstractContextManager:
        """A processor of its own for this process; photos are decoded by all of them, and a GPU needs none."""
        own = self.device.type == "cpu" and self.data.meta.photos is None
        return processor.of_its_own() if own else contextlib.nullcontext()

    @contextlib.contextmanager
    def alone_with(self, group: list[Run]) -> Iterator[None]:
        """Wait until no other job, an orphan of a killed one perhaps, trains this group; its end frees the lock."""
        if not self.world.leads:
            yield
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with open(self.checkpoints / "lock", "ab") as file:
            # One byte of one file a group: locks of this kind hold over NFS and leave nothing behind.
            place = int(self._key(group)[:12], 16)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                log.info("another job trains %s; waiting for it", title(group))
                fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
            yield

    def train_group(self, group: list[Run]) -> None:
        """Train what is missing of a group: first what its checkpoint holds, then the rest from the start."""
        checkpoint = Checkpoint(self.checkpoints / f"{self._key(group)}.pt")
        state = self.world.told(lambda: checkpoint.load() if self.missing(group) else None)
        if state:
            resumed = [Run.from_settings(settings) for settings in state["runs"]]
            self._train(resumed, checkpoint, state)
        fresh = self.world.told(lambda: self.missing(group))
        if fresh:
            self._train(fresh, checkpoint, None)
        if self.world.leads:
            checkpoint.remove()

    def _key(self, group: list[Run]) -> str:
        names = "\n".join(run.name(self.fingerprint) for run in group)
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def _train(self, runs: list[Run], checkpoint: Checkpoint, state: dict | None) -> None:
        training = LaneTraining(runs, self.data, self.device, self.world, self.images_at_once)
        if state:
            training.restore(state)
            log.info("resumed at epoch %d, step %d", training.epoch, training.step)
        epochs = runs[0].setting.epochs
        self.progress.begin(title(runs), len(runs), epochs, self.images(runs[0]) // epochs, training.epoch)
        training.train(self._finish, checkpoint, self.progress)
        self.progress.end()

    def _finish(self, run: Run, outcome: Outcome, weights: bytes | None) -> None:
        name = run.name(self.fingerprint)
        # A group resumed after some of its runs were written trains them along: company decides the rounding.
        if not self.world.leads or self.store.has(run, self.fingerprint):
            return
        kept = None if self.keep == "none" else weights
        self.store.write(run, self.fingerprint, outcome, self.environment, kept)
        end = f"diverged at update {outcome.diverged_at}" if outcome.diverged_at else f"accuracy {_accuracy(outcome)}"
        log.info("%s: %s, %.1f s", name, end, outcome.seconds)

    def keep_best_of_cells(self, runs: Sequence[Run]) -> None:
        """Of each cell's runs keep only the weights of the best."""
        cells: dict[tuple, list[tuple[float, Run]]] = {}
        for run in runs:
            record = self.store.find(run, self.fingerprint)
            if record and record.outcome.diverged_at is None:
                cells.setdefault((row(run), run.base_lr), []).append((final_accuracy(record.outcome.epochs), run))
        for members in cells.values():
            best = max(members, key=lambda member: member[0])[1]
            for _, run in members:
                if run is not best:
                    self.store.drop_weights(run, self.fingerprint)


def title(runs: Sequence[Run]) -> str:
    """A group of lanes in a few words."""
    run, s = runs[0], runs[0].setting
    norm = "" if s.norm == "none" else f" {s.norm} norm b={run.bn_batch_size}"
    return f"{s.model}{norm} on {s.data}, m={run.batch_size}, {len(runs)} lanes"


def _accuracy(outcome: Outcome) -> str:
    return f"{100 * final_accuracy(outcome.epochs):.1f} %"
