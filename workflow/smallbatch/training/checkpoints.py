"""Checkpoints of a training in progress: written atomically, and loaded without executing code."""

import hashlib
import io
import logging
import os
import time
from pathlib import Path

import torch

from smallbatch.core.files import atomic, read_regular, set_aside
from smallbatch.training.checkpoint_compatibility import State

INTERVAL = 45.0
"""Seconds between checkpoints: including the steps until the clock is checked again, less than a minute."""

DIGEST_BYTES = 32
"""Length of the digest at the beginning of the file: the SHA-256 of its name and of all that follows."""

log = logging.getLogger(__name__)


class Checkpoint:
    """One file that holds the latest state of a training.

    The file begins with a digest of the state and of the file's own name and folder, which detects damage as well as a
    checkpoint that was put in place of another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved_at >= INTERVAL

    def save(self, state: State) -> None:
        """Replace the file's content by `state`."""
        content = io.BytesIO()
        torch.save(state, content)  # into memory, since torch reports a full disk as another error
        with atomic(self.path) as file:
            file.write(self._digest(content.getbuffer()))
            file.write(content.getbuffer())
        self.saved_at = time.monotonic()

    def load(self) -> State | None:
        """The last saved state, or None. A damaged file is set aside and named in the log."""
        try:
            return self.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.refuse(error.strerror or str(error))
        except ValueError as error:
            self.refuse(str(error))
        return None

    def read(self) -> State:
        """The last saved state; a damaged file is left as it is.

        Raises:
            FileNotFoundError: nothing is saved.
            OSError: the file cannot be read.
            ValueError: the file is damaged; says how.
        """
        content = memoryview(read_regular(self.path))
        digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != self._digest(content):
            raise ValueError("its content does not fit its digest, or it is another's")
        try:
            state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds of exceptions for unknown content
            raise ValueError(str(error).partition("\n")[0]) from error
        if isinstance(state, dict) and isinstance(state.get("history"), list):
            state.setdefault("scores", [[] for _ in state["history"]])  # files of earlier versions have none
        return state

    def refuse(self, reason: str) -> None:
        """Set the file aside and name it in the log, so that its runs start again."""
        if os.path.lexists(self.path):
            log.warning("%s: damaged checkpoint (%s), set aside as %s", self.path, reason, set_aside(self.path))

    def remove(self) -> None:
        """Delete the file if it exists, as its training is finished."""
        self.path.unlink(missing_ok=True)

    def _digest(self, content: memoryview) -> bytes:
        digest = hashlib.sha256(f"{self.path.parent.name}/{self.path.name}\n".encode())
        digest.update(content)
        return digest.digest()
