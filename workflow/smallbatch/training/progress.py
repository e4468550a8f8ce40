"""Shows progress: a line in the log every few seconds, a bar in a terminal, a heartbeat for `status`."""

import logging
from collections.abc import Sequence
from time import monotonic

from tqdm import tqdm

from smallbatch.core.console import clock
from smallbatch.runs.heartbeat import BLOCKED, RUNNING, HeartbeatWriter
from smallbatch.runs.records import Epoch
from smallbatch.study.metrics import ACCURACY

EVERY = 10.0
"""Seconds between lines, and between measurements of the speed."""

log = logging.getLogger(__name__)


class Progress:
    """Reports the progress of a pack.

    Args:
        images: number of training images that all its runs will use, if none diverges.
        shown: whether to show a bar in a terminal.
        writer: writer of the heartbeat, which is kept up to date.
    """

    def __init__(self, images: int, *, shown: bool = True, writer: HeartbeatWriter | None = None) -> None:
        self.images, self.done, self.resumed, self.trained = images, 0, 0, 0
        self.started = self.logged = monotonic()
        self.writer = writer or HeartbeatWriter(None)
        self.speed: float | None = None
        self._measure(None)
        hidden = None if shown else True  # None: hidden unless in a terminal
        self.bar = tqdm(total=images, unit=" images", unit_scale=True, disable=hidden, dynamic_ncols=True)

    def begin(
        self, title: str, runs: Sequence[str], epochs: int, images: int, resumed: int = 0, score: str = ACCURACY
    ) -> None:
        """Begin a group of lanes.

        Args:
            title: description of the group.
            runs: names of the lanes.
            epochs: number of epochs of each run.
            images: number of training images of an epoch.
            resumed: number of epochs trained by an earlier job.
            score: what the accuracies of epochs are, in words.
        """
        self.score = score
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
        """Report that another job trains the next group."""
        self._measure(None)
        self.writer.update(state=BLOCKED, title=title, group=(), at_once=True)

    def block(self, images: int) -> None:
        """Report a block of updates, by the number of images used by its lanes."""
        self.trained += images
        self._do(self.done - self.group_start + images)
        seconds = monotonic() - self.measured
        if seconds >= (EVERY if self.speed else 1):
            self._measure((self.trained - self.trained_before) / seconds)

    def _measure(self, speed: float | None) -> None:
        """Restart the measurement of speed; until there is a result, report this one."""
        self.writer.update(speed=speed, at_once=speed is not None and self.speed is None)
        self.speed, self.measured, self.trained_before = speed, monotonic(), self.trained

    def epoch(self, number: int, history: Sequence[Sequence[Epoch]]) -> None:
        """Report a complete epoch, if the interval has passed."""
        self.writer.update(epoch=number)
        self._do(self.epoch_images * self.lanes * number)
        if monotonic() - self.logged < EVERY or not history:
            return
        self.logged = monotonic()
        accuracies = [lane[-1].test_accuracy for lane in history]
        log.info(
            "%s: epoch %d of %d, %d lanes, %s %.1f-%.1f %%, %s images/s, about %s left in this pack",
            self.title, number, self.epochs, len(history), self.score, 100 * min(accuracies), 100 * max(accuracies),
            f"{self.trained / (monotonic() - self.started):,.0f}", clock(self._left()),
        )  # fmt: skip

    def abandon(self) -> None:
        """Undo the progress of a group that did not fit; its parts begin as new groups."""
        self._do(0)

    def end(self) -> None:
        """End the group; updates that diverged runs did not need count as done."""
        self._do(self.epoch_images * self.lanes * self.epochs)
        log.info("%s: done", self.title)

    def _do(self, group_images: int) -> None:
        self.bar.update(self.group_start + group_images - self.done)
        self.done = self.group_start + group_images
        self.writer.update(
            images=self.images, trained=self.done, left=self._left() if self.done > self.resumed else None
        )

    def _left(self) -> float:
        """Estimated seconds for the rest of the pack, at the average speed so far."""
        return (monotonic() - self.started) * max(0, self.images - self.done) / max(1, self.done - self.resumed)
