"""One line on the progress of a study: redrawn in a terminal, written once a minute elsewhere."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smallbatch.runs.status import Status, format_line, stopped_message
from smallbatch.terminal.screen import Screen

REFRESH_INTERVAL_S = 1.0
"""Seconds between two updates in a terminal."""

MAX_TIME_SHARE = 0.02
"""The largest fraction of the time that updates may take: large studies are updated less often."""

LINE_INTERVAL_S = 60.0
"""Seconds between two lines elsewhere."""

TIME_LEFT_KNOWN = 120.0
"""Seconds after which the time left is estimated from the progress so far."""

DONE = ": done"
"""Suffix of the message of a finished job."""

INTERRUPTED = "Stopping: trainings save their state first, which takes seconds."

HIDDEN_EVENTS = ("workflow_started", "run_info", "resources_info")
"""Snakemake's events that are not shown in a terminal; Snakemake's log has them."""


ROUTINE = ("Assuming unrestricted shared", "Building DAG of jobs", "Using shell", "Conda environments: ignored")
"""How messages begin that say what Snakemake does in each call; Snakemake's log has them, too."""


def is_shown(event: str | None, level: int, text: str) -> bool:
    """Whether a terminal shows Snakemake's message before the training begins."""
    return level >= logging.WARNING or not (event in HIDDEN_EVENTS or text.startswith(ROUTINE))


class TimeLeft:
    """Estimates the time left from the progress since the first status, since the current runs may be slow or fast.

    Before `TIME_LEFT_KNOWN` the status keeps its own estimate, from the current speed.
    """

    def __init__(self) -> None:
        self._first: Status | None = None

    def of(self, status: Status) -> Status:
        """The status with the estimated time left."""
        if status.images is None:
            return status
        first = self._first = self._first or status
        seconds, trained = status.now - first.now, (first.images or 0.0) - status.images
        known = seconds >= TIME_LEFT_KNOWN and trained > 0
        return replace(status, left=status.images * seconds / trained) if known else status


class Watch:
    """Shows the status of a study periodically, from a thread.

    Args:
        look: returns the status of the study.
        show: displays a status.
        every: the minimum number of seconds between two updates.
    """

    def __init__(self, look: Callable[[], Status], show: Callable[[Status], None], every: float) -> None:
        self._look, self._show, self._every, self._time_left = look, show, every, TimeLeft()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = self._every
        while not self._ended.wait(pause):
            begun = time.monotonic()
            try:
                self._show(self._time_left.of(self._look()))
            except OSError:  # a file disappeared while it was read; the next update notices
                pass
            except RuntimeError:
                if threading.main_thread().is_alive():
                    raise
                return  # the process is ending, and cannot start threads that read records
            pause = max(self._every, (time.monotonic() - begun) / MAX_TIME_SHARE)


class StatusLogHandler(logging.Handler):
    """Replaces Snakemake's terminal handler, to which warnings and errors are still passed on.

    Before `watch`, Snakemake's header and tables are left out; after it, one line is written for each finished job,
    with the study's status line below. After Ctrl-C, one line says what is saved; what jobs and Snakemake write about
    being stopped is left out, for their logs have it.

    Args:
        handler: Snakemake's handler.
        look: returns the status of the study.
    """

    def __init__(self, handler: logging.Handler, look: Callable[[], Status]) -> None:
        super().__init__()
        self._handler, self._look = handler, look
        self._messages: dict[int, str] = {}
        self._screen: Screen | None = None
        self._watch: Watch | None = None
        self._failed = False

    def watch(self) -> None:
        """Begin to show the study's status line; called by the main thread before jobs begin."""
        self._screen = screen = Screen(interrupted=INTERRUPTED)

        def show(status: Status) -> None:
            running = [text for text in [*self._messages.values()] if text.endswith(DONE)]
            screen.draw(format_line(status, screen.width - 1, beside="".join(running[:1]).removesuffix(DONE)))

        self._watch = Watch(self._look, show, REFRESH_INTERVAL_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record as far as a terminal should show it."""
        if not self._handler.filter(record):
            return
        event = getattr(record, "event", None)
        if self._screen is None:
            if is_shown(event, record.levelno, record.getMessage()):
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
        """Restore the terminal."""
        if self._screen and self._watch:
            self._watch.end()
            self._screen.close()
            interrupted, self._screen = self._screen.muted, None
            if interrupted:
                print(stopped_message(self._look()), file=sys.stderr)
        super().close()


def message(job: dict[str, Any]) -> str:
    """A short message on a job: what it does; for a target, which has no log, what exists now."""
    text = str(job["rule_msg"] or job["rule_name"]).partition(" (")[0]
    return text + DONE if job["log"] else text


def print_progress_lines(look: Callable[[], Status]) -> Watch:
    """Write one line per minute to standard error."""

    def show(status: Status) -> None:
        print(time.strftime("%H:%M:%S"), format_line(status), file=sys.stderr, flush=True)

    return Watch(look, show, LINE_INTERVAL_S)
