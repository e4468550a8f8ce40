"""Heartbeat of a training job: one small file per pack, rewritten every few seconds and read by `runs.status`."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smallbatch.core.errors import Stopped, UserError
from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.data.prepared import META, read_meta
from smallbatch.study.experiments import Run

INTERVAL = 10.0
"""Seconds between writes."""

SILENCE = 300.0
"""Seconds without a write after which a training may have been killed."""

RUNNING, BLOCKED, DONE, STOPPED, FAILED = "running", "blocked", "done", "stopped", "failed"
"""States. Blocked: the job waits for another one, which trains runs compatible with its own."""


@dataclass(frozen=True)
class Heartbeat:
    """The state of a training job when it last wrote.

    state: one of the states above.
    since, updated: the times at which the job began and wrote this, in seconds since 1970.
    host, process, job: where it runs; job is the number of its SLURM job, None elsewhere.
    log: the file that it logs to; None: a terminal.
    runs: names of its runs, including those that existed before it began.
    device: cpu, cuda or cuda:N, once known.
    reason: why it failed or was stopped, in one line.
    title: a description of what is trained now: the runs `group`, as lanes, after `epoch` of `epochs` epochs.
    images, trained: training images that all its runs need, and the number of them already trained on.
    speed: images/s in the last seconds, once known.
    left: about how many seconds are left, once known.
    """

    state: str
    since: float
    updated: float
    host: str
    process: int
    job: str | None
    log: str | None
    runs: Sequence[str]
    device: str | None = None
    reason: str | None = None
    title: str = ""
    group: Sequence[str] = ()
    epoch: int = 0
    epochs: int = 0
    images: int = 0
    trained: int = 0
    speed: float | None = None
    left: float | None = None

    def silent(self, now: float) -> bool:
        """Whether the job has not written for longer than `SILENCE` although it should; it may have been killed."""
        return self.state in (RUNNING, BLOCKED) and now - self.updated > SILENCE


def first_heartbeat(runs: Sequence[str] = (), log: str | None = None) -> Heartbeat:
    """The heartbeat of this process as it begins to train the runs with these names."""
    now = time.time()
    return Heartbeat(RUNNING, now, now, socket.gethostname(), os.getpid(), os.getenv("SLURM_JOB_ID"), log, runs)


class HeartbeatWriter:
    """Writes the heartbeat; as a context, every few seconds from a thread, whatever the training is doing.

    Failed writes are ignored: a full disk is reported by the training itself.

    Args:
        path: the file; None: nothing is written.
        heartbeat: the first heartbeat; None: the one in the file.
    """

    def __init__(self, path: Path | None, heartbeat: Heartbeat | None = None) -> None:
        self.path = path
        self.heartbeat = heartbeat or (path and read_heartbeat(path)) or first_heartbeat()
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def update(self, *, at_once: bool = False, **fields: Any) -> None:
        """Change the heartbeat that is written next.

        Args:
            at_once: whether to write it now.
            fields: new values of fields of `Heartbeat`.
        """
        self.heartbeat = replace(self.heartbeat, **fields)
        if at_once:
            self._write()

    def __enter__(self) -> "HeartbeatWriter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._write()

    def _write(self) -> None:
        with self._writing, contextlib.suppress(UserError, OSError):
            if self.path:
                write_sealed(self.path, asdict(replace(self.heartbeat, updated=time.time())))


@contextlib.contextmanager
def keeping_heartbeat(path: Path | None, runs: Sequence[Run], data_folder: Path, log: str | None) -> Iterator[None]:
    """Context that writes the first heartbeat of a training and, at its end, how the training ended.

    Args:
        path: the file; None: nothing is written.
        runs: the runs that are trained.
        data_folder: the folder of the prepared arrays that they are trained on.
        log: the file that the training logs to; None: a terminal.
    """
    if path is None:
        yield
        return
    fingerprint = read_meta(data_folder / META).fingerprint
    HeartbeatWriter(path, first_heartbeat([run.name(fingerprint) for run in runs], log)).update(at_once=True)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Stopped) or not isinstance(error, Exception)
        HeartbeatWriter(path).update(state=STOPPED if stopped else FAILED, reason=_reason(error), at_once=True)
        raise
    HeartbeatWriter(path).update(state=DONE, at_once=True)


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    kind = type(error).__name__
    return text if isinstance(error, UserError | Stopped) else f"{kind}: {text}" if text else kind


def read_heartbeat(path: Path) -> Heartbeat | None:
    """The heartbeat in a file; None if it holds none."""
    try:
        return _read(path)
    except UserError:
        return None


def _read(path: Path) -> Heartbeat:
    values = read_sealed(path)
    if "spoken" in values:  # its name in version 0.1
        values["updated"] = values.pop("spoken")
    try:
        return Heartbeat(**values)
    except TypeError as error:
        raise UserError(f"{path}: of another version of this library; delete it") from error


def read_heartbeats(folder: Path) -> tuple[dict[str, Heartbeat], list[str]]:
    """Pack -> its heartbeat, the latest last; and an error for each file that holds no heartbeat."""
    heartbeats, wrong = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            heartbeats[path.stem] = _read(path)
        except UserError as error:
            wrong.append(str(error))
    return dict(sorted(heartbeats.items(), key=lambda item: item[1].updated)), wrong
