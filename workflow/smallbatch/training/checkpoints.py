"""Checkpoints of a training in progress: whole or not there, loaded without executing anything."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from smallbatch.files import atomic, set_aside

INTERVAL = 45.0
"""Seconds between checkpoints: with the steps until the next look at the clock, less than a minute."""

log = logging.getLogger(__name__)


class Checkpoint:
    """One file that holds the latest state of a training.

    The state is a nest of dicts and lists of tensors, numbers and text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved_at >= INTERVAL

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`."""
        content = io.BytesIO()
        torch.save(state, content)  # into memory, since it tells a full disk as something else
        with atomic(self.path) as file:
            file.write(content.getbuffer())
        self.saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state last saved, or none. A damaged file is set aside and named on the log."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            log.warning("%s: damaged checkpoint (%s), set aside as %s", self.path, error, set_aside(self.path))
            return None

    def remove(self) -> None:
        """Delete the file, if there is one: what it led to is finished."""
        self.path.unlink(missing_ok=True)
