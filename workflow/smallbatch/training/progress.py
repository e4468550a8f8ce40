"""Progress at a human pace: a line on the log every few seconds, a bar in a terminal, a heartbeat for `status`."""

import logging
from collections.abc import Sequence
from time import monotonic

from tqdm import tqdm

from smallbatch.core.console import clock
from smallbatch.runs.heartbeat import BLOCKED, RUNNING, HeartbeatWriter
from smallbatch.runs.store import Epoch

EVERY = 10.0
"""Seconds between lines, and between looks at the speed."""

log = logging.getLogger(__name__)


class Progress:
    """Tells how far a pack is.

    Args:
        images: training images that all its runs will see, if none diverges.
        shown: whether a terminal shows a bar.
        writer: of the heartbeat, which is kept up to date.
    """

    def __init__(self, images: int, *, shown: bool = True, writer: HeartbeatWriter | None = None) -> None:
        self.images, self.done, self.resumed, self.trained = images, 0, 0, 0
        self.started = self.logged = monotonic()
        self.writer = writer or HeartbeatWriter(None)
        self.speed: float | None = None
        self._measure(None)
        hidden = None if shown else True  # None: but for a terminal
        self.bar = tqdm(total=images, unit=" images", unit_scale=True, disable=hidden, dynamic_ncols=True)

    def begin(self, title: str, runs: Sequence[str], epochs: int, images: int, resumed: int = 0) -> None:
        """Begin a group of lanes.

        Args:
            title: what is trained.
            runs: names of the lanes.
            epochs: of each run.
            images: training images of an epoch.
            resumed: epochs that were trained by an earlier job.
        """
        self.title, self.lanes, self.epochs, self.epoch_images = title, len(runs), epochs, images
        self.group_start = self.done
        self.resumed += images * self.lanes * resumed
        self._do(images * self.lanes * resumed)
        self.bar.set_description(title)
        log.info("%s: begins", title)
        if self.speed is None:
            self._measure(None)
        self.writer.update(state=RUNNING, title=title, group=runs, epoch=resumed, epochs=epochs, at_once=True)

    def report_waiting(self, title: str) -> None:
        """Tell that another job trains what is next here."""
        self._measure(None)
        self.writer.update(state=BLOCKED, title=title, group=(), at_once=True)

    def block(self, images: int) -> None:
        """Tell of a block of updates, by the images that its lanes have seen."""
        self.trained += images
        self._do(self.done - self.group_start + images)
        seconds = monotonic() - self.measured
        if seconds >= (EVERY if self.speed else 1):
            self._measure((self.trained - self.trained_before) / seconds)

    def _measure(self, speed: float | None) -> None:
        """Begin to measure the speed again; until that is known tell of this one."""
        self.writer.update(speed=speed, at_once=speed is not None and self.speed is None)
        self.speed, self.measured, self.trained_before = speed, monotonic(), self.trained

    def epoch(self, number: int, history: Sequence[Sequence[Epoch]]) -> None:
        """Tell of an epoch that ended, if it is time to."""
        self.writer.update(epoch=number)
        self._do(self.epoch_images * self.lanes * number)
        if monotonic() - self.logged < EVERY or not history:
            return
        self.logged = monotonic()
        accuracies = [lane[-1].test_accuracy for lane in history]
        log.info(
            "%s: epoch %d of %d, %d lanes, accuracy %.1f-%.1f %%, %s images/s, about %s left in this pack",
            self.title, number, self.epochs, len(history), 100 * min(accuracies), 100 * max(accuracies),
            f"{self.trained / (monotonic() - self.started):,.0f}", clock(self._left()),
        )  # fmt: skip

    def abandon(self) -> None:
        """The group did not get through; it goes on in parts, which begin like groups."""
        self._do(0)

    def end(self) -> None:
        """End the group: what diverged runs did not need counts as done."""
        self._do(self.epoch_images * self.lanes * self.epochs)
        log.info("%s: done", self.title)

    def _do(self, group_images: int) -> None:
        self.bar.update(self.group_start + group_images - self.done)
        self.done = self.group_start + group_images
        self.writer.update(
            images=self.images, trained=self.done, left=self._left() if self.done > self.resumed else None
        )

    def _left(self) -> float:
        """About how many seconds the rest of the pack takes, at the pace so far."""
        return (monotonic() - self.started) * max(0, self.images - self.done) / max(1, self.done - self.resumed)
