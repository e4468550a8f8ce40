"""The checkpoints of a row: of runs that differ in base learning rate and seed alone, and can be lanes of one group."""

import contextlib
import fcntl
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from smallbatch.core import stopping
from smallbatch.core.errors import UserError
from smallbatch.core.files import remove_temporaries, writing_errors
from smallbatch.study.experiments import CHOSEN_LATER, Run
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engine import state_of_lanes

POLL = 1.0
"""Seconds between looks at a lock that another job holds."""

log = logging.getLogger(__name__)


class Row:
    """A folder with a checkpoint for each group of lanes, from when it is cut to when all its runs are stored.

    So whoever wants a run finds the group that was begun with it, whatever else he wants and however he would cut; and
    a group that was cut is trained in the same company after a kill, which decides the rounding of its numbers.

    Args:
        root: the folder of all checkpoints.
        run: one of the row.
        fingerprint: of its data.
    """

    def __init__(self, root: Path, run: Run, fingerprint: str) -> None:
        self.root, self.fingerprint = root, fingerprint
        self.key = replace(run, base_lr=CHOSEN_LATER, seed=0).name(fingerprint).rpartition("-")[2]
        self.folder = root / self.key

    @contextlib.contextmanager
    def alone(self, title: str, waits: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other job, an orphan of a killed one perhaps, trains this row.

        The lock is a byte of a file, which the system forgets with its owner: where the process ends, however it does;
        where its node dies, NFS 4 after the lease of some 90 s, NFS 3 when the node is back. It leaves nothing behind.

        Args:
            title: of the row, for the log.
            waits: is called with the title where the lock is not free.

        Raises:
            Stopped: a signal asked for it in the meantime.
            UserError: the file system has no locks, or the folder cannot be written.
        """
        with writing_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = open(self.root / "lock", "ab")  # noqa: SIM115
        with file:
            if not self._locked(file):
                log.info("another job trains %s; waiting for it", title)
                waits(title)
                # Looked at now and then: a server may fail to tell when it is free.
                while not self._locked(file):
                    stopping.check()
                    time.sleep(POLL)
            remove_temporaries(self.folder)  # nobody else writes there now
            yield
            with contextlib.suppress(OSError):  # not there, or not empty
                self.folder.rmdir()

    def _locked(self, file: IO[bytes]) -> bool:
        """Take the lock, unless another process has it; returns whether it is taken."""
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

    def begin(self, state: dict) -> Path:
        """Begin a group of lanes: save its checkpoint, which names at least its runs; returns that."""
        names = "\n".join(Run.from_settings(settings).name(self.fingerprint) for settings in state["runs"])
        path = self.folder / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.pt"
        Checkpoint(path).save(state)
        return path

    def halve(self, path: Path, state: dict) -> None:
        """Let a group go on as two, from the same state.

        A kill in between leaves the whole group's checkpoint, and `begun` takes that.
        """
        count = len(state["runs"])
        for lanes in (range(count // 2), range(count // 2, count)):
            self.begin(state_of_lanes(state, lanes))
        Checkpoint(path).remove()

    def begun(self, is_missing: Callable[[Run], bool]) -> dict[Path, list[Run]]:
        """The checkpoints that hold missing runs, with all their runs.

        Those that hold none are removed, and those whose runs another has as well: parts of it that never began.

        Args:
            is_missing: says of a run whether it is still to be trained.
        """
        found = {}
        for path in sorted(self.folder.glob("*.pt")):
            runs = self._runs(Checkpoint(path))
            if any(map(is_missing, runs)):
                found[path] = runs
            else:
                Checkpoint(path).remove()
        parts = [path for path, runs in found.items() if any(set(runs) < set(others) for others in found.values())]
        for path in parts:
            Checkpoint(path).remove()
        return {path: runs for path, runs in found.items() if path not in parts}

    def _runs(self, checkpoint: Checkpoint) -> list[Run]:
        """The runs that a checkpoint holds; none where it is not there or not one of this row, which is set aside."""
        state = checkpoint.load()
        if state is None:
            return []
        try:
            runs = [Run.from_settings(settings) for settings in state["runs"]]
            if {Row(self.root, run, self.fingerprint).key for run in runs} == {self.key}:
                return runs
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        checkpoint.refuse("it holds no runs of its row")
        return []
