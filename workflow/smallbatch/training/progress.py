"""Progress at a human pace: a line on the log every few seconds, a bar where a terminal is there."""

import logging
import time
from collections.abc import Sequence

from tqdm import tqdm

from smallbatch.store import Epoch

EVERY = 10.0
"""Seconds between lines."""

log = logging.getLogger(__name__)


class Progress:
    """Tells how far a pack is.

    Args:
        images: training images that all its runs will see, if none diverges.
    """

    def __init__(self, images: int) -> None:
        self.images, self.seen, self.group_seen = images, 0, 0
        self.started = self.told = time.monotonic()
        # The bar shows only on a terminal.
        self.bar = tqdm(total=images, unit=" images", unit_scale=True, disable=None, dynamic_ncols=True)

    def begin(self, title: str, images: int, epochs: int) -> None:
        """Begin a group of lanes.

        Args:
            title: what is trained.
            images: training images that the group will see, if no run diverges.
            epochs: of the group.
        """
        self.title, self.group_images, self.epochs, self.group_seen = title, images, epochs, self.seen
        self.bar.set_description(title)
        log.info("%s: begins", title)

    def epoch(self, number: int, history: Sequence[Sequence[Epoch]]) -> None:
        """Tell of an epoch that ended, if it is time to."""
        self._see(self.group_seen + self.group_images * number // self.epochs)
        if time.monotonic() - self.told < EVERY or not history:
            return
        self.told = time.monotonic()
        accuracies = [lane[-1].test_accuracy for lane in history]
        rate, left = self._rate()
        log.info(
            "%s: epoch %d of %d, %d lanes, accuracy %.1f-%.1f %%, %s images/s, about %s left in this pack",
            self.title, number, self.epochs, len(history), 100 * min(accuracies), 100 * max(accuracies),
            f"{rate:,.0f}", _clock(left),
        )  # fmt: skip

    def end(self) -> None:
        """End the group: what diverged runs did not need counts as done."""
        self._see(self.group_seen + self.group_images)
        log.info("%s: done", self.title)

    def _see(self, images: int) -> None:
        self.bar.update(images - self.seen)
        self.seen = images

    def _rate(self) -> tuple[float, float]:
        rate = self.seen / max(1e-9, time.monotonic() - self.started)
        return rate, (self.images - self.seen) / max(rate, 1e-9)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
