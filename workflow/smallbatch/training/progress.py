"""Progress at a human pace: a line on the log every few seconds, a bar where a terminal is there."""

import logging
from collections.abc import Sequence
from time import monotonic

from tqdm import tqdm

from smallbatch.store import Epoch

EVERY = 10.0
"""Seconds between lines."""

log = logging.getLogger(__name__)


class Progress:
    """Tells how far a pack is.

    Args:
        images: training images that all its runs will see, if none diverges.
        shown: whether a terminal shows a bar.
    """

    def __init__(self, images: int, *, shown: bool = True) -> None:
        self.images, self.done, self.resumed, self.trained = images, 0, 0, 0
        self.started = self.told = monotonic()
        hidden = None if shown else True  # None: but for a terminal
        self.bar = tqdm(total=images, unit=" images", unit_scale=True, disable=hidden, dynamic_ncols=True)

    def begin(self, title: str, lanes: int, epochs: int, images: int, resumed: int = 0) -> None:
        """Begin a group of lanes.

        Args:
            title: what is trained.
            lanes: how many runs.
            epochs: of each run.
            images: training images of an epoch.
            resumed: epochs that were trained by an earlier job.
        """
        self.title, self.lanes, self.epochs, self.epoch_images = title, lanes, epochs, images
        self.group_start = self.done
        self.resumed += images * lanes * resumed
        self.bar.set_description(title)
        log.info("%s: begins", title)

    def epoch(self, number: int, history: Sequence[Sequence[Epoch]]) -> None:
        """Tell of an epoch that ended, if it is time to."""
        self.trained += self.epoch_images * len(history)
        self._do(self.epoch_images * self.lanes * number)
        if monotonic() - self.told < EVERY or not history:
            return
        self.told = monotonic()
        accuracies = [lane[-1].test_accuracy for lane in history]
        elapsed = monotonic() - self.started
        log.info(
            "%s: epoch %d of %d, %d lanes, accuracy %.1f-%.1f %%, %s images/s, about %s left in this pack",
            self.title, number, self.epochs, len(history), 100 * min(accuracies), 100 * max(accuracies),
            f"{self.trained / elapsed:,.0f}",
            _clock(elapsed * max(0, self.images - self.done) / max(1, self.done - self.resumed)),
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


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
