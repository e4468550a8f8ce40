"""The checkpoints of compatible runs: runs that differ only in rate and seed, and can be lanes of one group."""

import contextlib
import fcntl
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from smallbatch.core import signals
from smallbatch.core.errors import UserError
from smallbatch.core.files import remove_temporaries, writing_errors
from smallbatch.runs.records import Epoch
from smallbatch.study.experiments import Run
from smallbatch.study.rates import BaseLr
from smallbatch.training.checkpoint_compatibility import State, select_lanes
from smallbatch.training.checkpoints import Checkpoint

POLL = 1.0
"""Seconds between attempts to take a lock that another job holds."""

log = logging.getLogger(__name__)


class CheckpointFolder:
    """A folder with a checkpoint for each group of lanes, from the group's creation until all its runs are stored.

    A job that needs a run finds the group in which the run was begun, whatever the job's other runs and whatever groups
    it would form itself. After a kill, a group is trained with the same lanes, which determine its rounding.

    Args:
        root: the folder of all checkpoints.
        run: one of the compatible runs.
        fingerprint: fingerprint of its data.
    """

    def __init__(self, root: Path, run: Run, fingerprint: str) -> None:
        self.root, self.fingerprint = root, fingerprint
        self.key = replace(run, base_lr=BaseLr(0.0), seed=0).name(fingerprint).rpartition("-")[2]
        self.path = root / self.key

    @contextlib.contextmanager
    def locked(self, title: str, waits: Callable[[str], None]) -> Iterator[None]:
        """Context in which no other job, such as an orphan of a killed one, trains compatible runs; waits for the lock.

        The lock is on a byte of a file and released by the system with its owner: when the process ends in any
        way; when its node dies, with NFS 4 after a lease of some 90 s, with NFS 3 when the node is back. It leaves
        nothing behind.

        Args:
            title: title of the runs, for the log.
            waits: called with the title if the lock is taken.

        Raises:
            Stopped: a signal requested it while waiting.
            UserError: the file system has no locks, or the folder cannot be written.
        """
        with writing_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = open(self.root / "lock", "ab")  # noqa: SIM115
        with file:
            if not self._try_lock(file):
                log.info("another job trains %s; waiting for it", title)
                waits(title)
                # Polled, since a server may fail to notify when the lock is free.
                while not self._try_lock(file):
                    signals.raise_if_signalled()
                    time.sleep(POLL)
            remove_temporaries(self.path)  # no other process writes there now
            yield
            with contextlib.suppress(OSError):  # the folder does not exist, or is not empty
                self.path.rmdir()

    def _try_lock(self, file: IO[bytes]) -> bool:
        """Try to take the lock; returns whether it was free."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(self.key, 16))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise UserError(
                f"{self.root}: its file system does not lock files ({error.strerror}), so two jobs could train the "
                "same run; allowed: one that does, such as NFS with its lock manager or Lustre mounted with flock"
            ) from error
        return True

    def create(self, state: State) -> Path:
        """Begin a group of lanes: save its checkpoint, under a name derived from its runs; returns the path."""
        names = "\n".join(Run.from_settings(settings).name(self.fingerprint) for settings in state["runs"])
        path = self.path / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.pt"
        Checkpoint(path).save(state)
        return path

    def split_in_half(self, path: Path, state: State) -> None:
        """Replace a group by two groups of half its lanes, with the same state.

        A kill in between leaves the whole group's checkpoint, which `unfinished` then prefers.
        """
        count = len(state["runs"])
        for lanes in (range(count // 2), range(count // 2, count)):
            self.create(select_lanes(state, lanes))
        Checkpoint(path).remove()

    def unfinished(self, is_missing: Callable[[Run], bool]) -> dict[Path, list[Run]]:
        """The checkpoints that hold missing runs, with all runs of each.

        Removes checkpoints without missing runs, and halves left by a killed split, whose runs are in another.

        Args:
            is_missing: returns whether a run is still to be trained.
        """
        unfinished = {}
        for path in sorted(self.path.glob("*.pt")):
            runs = self._runs(Checkpoint(path))
            if any(map(is_missing, runs)):
                unfinished[path] = runs
            else:
                Checkpoint(path).remove()
        halves = [
            path for path, runs in unfinished.items() if any(set(runs) < set(other) for other in unfinished.values())
        ]
        for path in halves:
            Checkpoint(path).remove()
        return {path: runs for path, runs in unfinished.items() if path not in halves}

    def _runs(self, checkpoint: Checkpoint) -> list[Run]:
        """The runs in a checkpoint; empty if it does not exist, or if it holds other runs and was set aside."""
        state = checkpoint.load()
        if state is None:
            return []
        try:
            runs = [Run.from_settings(settings) for settings in state["runs"]]
            if {CheckpointFolder(self.root, run, self.fingerprint).key for run in runs} == {self.key}:
                return runs
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        checkpoint.refuse("it holds other runs")
        return []


class EpochsReader:
    """Reads the epochs so far of unfinished runs from all checkpoints, of which it changes none.

    Args:
        root: the folder of all checkpoints.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[Path, tuple[int, State]] = {}

    def __call__(self, fingerprints: Mapping[str, str]) -> dict[str, list[Epoch]]:
        """Name of each run that has begun -> its epochs so far.

        Args:
            fingerprints: label of each data set -> its fingerprint; checkpoints of other data are left out.
        """
        begun: dict[str, list[Epoch]] = {}
        for path in sorted(self.root.glob("*/*.pt")):
            for settings, epochs in self._histories(path):
                run = Run.from_settings(settings)
                fingerprint = fingerprints.get(run.setting.data, "")
                if CheckpointFolder(self.root, run, fingerprint).key == path.parent.name:
                    begun[run.name(fingerprint)] = [Epoch(*epoch) for epoch in epochs]
        return begun

    def _histories(self, path: Path) -> list[tuple[dict[str, Any], list[list[Any]]]]:
        """The settings of each run of a checkpoint with its epochs; empty if there are none, or it is damaged.

        It is read again only once it was saved again: it holds weights, too, which may be large.
        """
        try:
            saved = path.stat().st_mtime_ns
            if self._read.get(path, (0, {}))[0] != saved:
                state = Checkpoint(path).read()
                self._read[path] = saved, {key: state.get(key, []) for key in ("runs", "history")}
        except (OSError, ValueError):  # it is finished, or its training will say what is wrong
            return []
        state = self._read[path][1]
        return list(zip(state["runs"], state["history"], strict=False))  # without a history before the first update
