"""Word that a training leaves of itself: a small file a pack, for who watches from elsewhere (`runs.status`)."""

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

EVERY = 10.0
"""Seconds between words."""

SILENCE = 300.0
"""Seconds without a word after which a training may have been killed."""

RUNNING, BLOCKED, DONE, STOPPED, FAILED = "running", "blocked", "done", "stopped", "failed"
"""States. Blocked: it waits for another job, which trains a row of its runs."""


@dataclass(frozen=True)
class Word:
    """What a training last said.

    state: one of the states above.
    since, spoken: when it began and when it said this, in seconds since 1970.
    host, process, job: where it runs; the job is SLURM's, none elsewhere.
    log: the file that it logs to; none: a terminal.
    runs: names of its runs, those included that were there before it.
    device: cpu, cuda or cuda:N, once it is known.
    reason: why it failed or was stopped, in one line.
    title: what is trained now: the runs `group`, in lock-step, of whose `epochs` so many as `epoch` are through.
    images, trained: training images that all its runs need, and how many of them are done with.
    speed: images/s in the last seconds, once it is known.
    left: about how many seconds are left, once that can be said.
    """

    state: str
    since: float
    spoken: float
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
        """Whether it should have spoken since; a process that was killed could not say so."""
        return self.state in (RUNNING, BLOCKED) and now - self.spoken > SILENCE


def first_word(runs: Sequence[str] = (), log: str | None = None) -> Word:
    """What this process says when it begins to train runs of these names."""
    now = time.time()
    return Word(RUNNING, now, now, socket.gethostname(), os.getpid(), os.getenv("SLURM_JOB_ID"), log, runs)


class Voice:
    """Leaves word in a file, as a context every few seconds, whatever the training is at.

    What cannot be written is let go: a full disk is told of by the training itself.

    Args:
        path: the file; none: nothing is written.
        word: the first; none: what the file holds.
    """

    def __init__(self, path: Path | None, word: Word | None = None) -> None:
        self.path = path
        self.word = word or (path and read_word(path)) or first_word()
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def say(self, *, at_once: bool = False, **news: Any) -> None:
        """Change what the next word says.

        Args:
            at_once: whether it is written now.
            news: fields of `Word`.
        """
        self.word = replace(self.word, **news)
        if at_once:
            self._write()

    def __enter__(self) -> "Voice":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._write()

    def _speak(self) -> None:
        while not self._ended.wait(EVERY):
            self._write()

    def _write(self) -> None:
        with self._writing, contextlib.suppress(UserError, OSError):
            if self.path:
                write_sealed(self.path, asdict(replace(self.word, spoken=time.time())))


@contextlib.contextmanager
def leaving_word(path: Path | None, runs: Sequence[Run], data_folder: Path, log: str | None) -> Iterator[None]:
    """Leave word that a training begins and, when the block is over, how it ended.

    Args:
        path: the file; none: no word is left.
        runs: what is trained.
        data_folder: the prepared arrays that it is trained on.
        log: the file that it logs to; none: a terminal.
    """
    if path is None:
        yield
        return
    fingerprint = read_meta(data_folder / META).fingerprint
    Voice(path, first_word([run.name(fingerprint) for run in runs], log)).say(at_once=True)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Stopped) or not isinstance(error, Exception)
        Voice(path).say(state=STOPPED if stopped else FAILED, reason=_reason(error), at_once=True)
        raise
    Voice(path).say(state=DONE, at_once=True)


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    kind = type(error).__name__
    return text if isinstance(error, UserError | Stopped) else f"{kind}: {text}" if text else kind


def read_word(path: Path) -> Word | None:
    """The word in a file; none if it holds none."""
    try:
        return _read(path)
    except UserError:
        return None


def _read(path: Path) -> Word:
    try:
        return Word(**read_sealed(path))
    except TypeError as error:
        raise UserError(f"{path}: of another version of this library; delete it") from error


def read_words(folder: Path) -> tuple[dict[str, Word], list[str]]:
    """Pack -> its word, the one spoken last coming last; and what is wrong with each file that holds none."""
    words, wrong = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            words[path.stem] = _read(path)
        except UserError as error:
            wrong.append(str(error))
    return dict(sorted(words.items(), key=lambda item: item[1].spoken)), wrong
