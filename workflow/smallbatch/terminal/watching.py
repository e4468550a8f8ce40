"""One line for a study that is trained: how far it is, redrawn in a terminal, once a minute elsewhere."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

from smallbatch.runs.status import Status, line, stopped_message
from smallbatch.terminal.status_line import Screen

EVERY = 1.0
"""Seconds between two looks in a terminal."""

SHARE = 0.02
"""Of the time, at most, that looking may take: large studies are looked at less often."""

MINUTE = 60.0
"""Between two lines elsewhere."""

PACE_KNOWN = 120.0
"""Seconds after which what was trained tells how long the rest takes."""

DONE = ": done"
"""Behind what a job did."""

INTERRUPTED = "Stopping: trainings save their state first, which takes seconds."

UNSEEN = ("workflow_started", "run_info", "resources_info")
"""Snakemake's events of which a terminal shows nothing: its own log has them."""


def shown(event: str | None, level: int) -> bool:
    """Whether Snakemake's text is to be seen, in a terminal, while it does not train yet."""
    return level >= logging.WARNING or event not in UNSEEN


class Pace:
    """Tells the time left by all that was trained since the first look: what trains now may be slow or fast.

    Until `PACE_KNOWN` it is told by the speed of what trains now, as the status has it.
    """

    def __init__(self) -> None:
        self._first: Status | None = None

    def of(self, status: Status) -> Status:
        """The status, with the time left."""
        if status.images is None:
            return status
        first = self._first = self._first or status
        seconds, trained = status.now - first.now, (first.images or 0.0) - status.images
        known = seconds >= PACE_KNOWN and trained > 0
        return replace(status, left=status.images * seconds / trained) if known else status


class Watch:
    """Looks at a study again and again, in a thread.

    Args:
        look: sees how far the study is.
        show: takes what was seen.
        every: seconds between two looks, at least.
    """

    def __init__(self, look: Callable[[], Status], show: Callable[[Status], None], every: float) -> None:
        self._look, self._show, self._every, self._pace = look, show, every, Pace()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = self._every
        while not self._ended.wait(pause):
            begun = time.monotonic()
            try:
                self._show(self._pace.of(self._look()))
            except OSError:  # a file that went while it was looked at; the next look sees it
                pass
            except RuntimeError:
                if threading.main_thread().is_alive():
                    raise
                return  # the process ends, and starts no threads to read records with
            pause = max(self._every, (time.monotonic() - begun) / SHARE)


class StatusLogHandler(logging.Handler):
    """Stands for Snakemake's handler of the terminal, which goes on writing what is wrong.

    Until `watch` it leaves out Snakemake's head and tables; then it writes a line for each job that finished, and the
    study's line below. Ended by Ctrl-C it says in one line what is saved.

    Args:
        handler: Snakemake's.
        look: sees how far the study is.
    """

    def __init__(self, handler: logging.Handler, look: Callable[[], Status]) -> None:
        super().__init__()
        self._handler, self._look = handler, look
        self._messages: dict[int, str] = {}
        self._screen: Screen | None = None
        self._watch: Watch | None = None
        self._failed = self._interrupted = False
        self._process = os.getpid()

    def watch(self) -> None:
        """Begin to show the study's line; called by the main thread, before jobs begin."""
        self._screen = screen = Screen()

        def show(status: Status) -> None:
            running = [text for text in [*self._messages.values()] if text.endswith(DONE)]
            screen.draw(line(status, screen.width - 1, beside="".join(running[:1]).removesuffix(DONE)))

        self._watch = Watch(self._look, show, EVERY)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a reader of the terminal needs of a record."""
        if not self._handler.filter(record):
            return
        event = getattr(record, "event", None)
        if self._screen is None:
            if shown(event, record.levelno):
                self._handler.emit(record)
        elif record.levelno >= logging.WARNING:
            self._failed |= record.levelno >= logging.ERROR
            self._handler.emit(record)
        elif event == "job_info":
            self._messages[record.__dict__["jobid"]] = message(record.__dict__)
        elif event == "job_finished":
            self._screen.say(f"{time.strftime('%H:%M:%S')} {self._messages.pop(record.__dict__['job_id'], record.msg)}")
        elif self._failed and event is None and str(record.msg).startswith("Complete log"):
            self._handler.emit(record)

    def close(self) -> None:
        """Give the terminal back."""
        if self._screen and self._watch:
            self._watch.end()
            self._screen.close()
            self._screen = None
            if self._interrupted:
                print(stopped_message(self._look()), file=sys.stderr)
        super().close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """What jobs and Snakemake say of being stopped is of no use; their logs have it."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._screen and os.getpid() == self._process:  # and not one that was forked for jobs
            self._screen.say(INTERRUPTED)
            self._screen.muted = self._interrupted = True
        raise KeyboardInterrupt


def message(job: dict[str, Any]) -> str:
    """A job in a few words: what it does, or of a target, which has no log, what there is now."""
    text = str(job["rule_msg"] or job["rule_name"]).partition(" (")[0]
    return text + DONE if job["log"] else text


def watch_elsewhere(look: Callable[[], Status]) -> Watch:
    """Write a line a minute to standard error."""

    def show(status: Status) -> None:
        print(time.strftime("%H:%M:%S"), line(status), file=sys.stderr, flush=True)

    return Watch(look, show, MINUTE)
