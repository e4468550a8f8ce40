"""Checkpoints of a training in progress: whole or not there, loaded without executing anything."""

import hashlib
import io
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smallbatch.core.files import atomic, set_aside
from smallbatch.runs.store import Epoch, Variance

if TYPE_CHECKING:
    from smallbatch.training.engine import LaneTraining

INTERVAL = 45.0
"""Seconds between checkpoints: with the steps until the next look at the clock, less than a minute."""

DIGEST_BYTES = 32
"""Of a file, at its beginning: the SHA-256 of its place and of all that follows."""

log = logging.getLogger(__name__)


class Checkpoint:
    """One file that holds the latest state of a training.

    The state is a nest of dicts and lists of tensors, numbers and text. The file begins with a digest of it and of the
    file's own name and folder, so that neither damage nor another's checkpoint passes for it.
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
            file.write(self._digest(content.getbuffer()))
            file.write(content.getbuffer())
        self.saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state last saved, or none. A damaged file is set aside and named on the log."""
        try:
            content = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return self.refuse(error.strerror or str(error))
        digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != self._digest(content):
            return self.refuse("its content does not fit its digest, or it is another's")
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for what it does not know
            return self.refuse(str(error).partition("\n")[0])

    def refuse(self, reason: str) -> None:
        """Set the file aside and name it on the log, so that its runs begin anew."""
        if os.path.lexists(self.path):
            log.warning("%s: damaged checkpoint (%s), set aside as %s", self.path, reason, set_aside(self.path))

    def remove(self) -> None:
        """Delete the file, if there is one: what it led to is finished."""
        self.path.unlink(missing_ok=True)

    def _digest(self, content: memoryview) -> bytes:
        digest = hashlib.sha256(f"{self.path.parent.name}/{self.path.name}\n".encode())
        digest.update(content)
        return digest.digest()


def misfit_of(state: dict[str, Any], training: "LaneTraining") -> str | None:
    """Why a training cannot go on from a state, asked before it is touched; none where it can.

    A checkpoint can be whole and not fit: of an own model that was changed since, or of another version of the code.

    Args:
        state: as `LaneTraining.state` gave it.
        training: of the runs of the state, from the start.
    """
    own = training.state()
    try:
        if state.keys() != own.keys():
            return f"it lacks or adds {', '.join(sorted(state.keys() ^ own.keys()))}"
        for key in ("model", "velocity", "loss_sum"):
            if _form(state[key]) != _form(own[key]):
                return f"its {key} is of other tensors than this training's"
        lanes, epochs, steps = len(training.runs), training.setting.epochs, training.feed.steps
        rows = state["history"], state["variance"], state["seconds"]
        whole = type(state["epoch"]) is type(state["step"]) is type(state["lanes"]) is type(state["part"]) is int
        counts = all(len(lane) == state["epoch"] for lane in state["history"]) and [lanes] * 3 == list(map(len, rows))
        widths = {len(row) for lane in state["history"] for row in lane} <= {len(Epoch._fields)} and (
            {len(row) for lane in state["variance"] for row in lane} <= {len(Variance._fields)}
        )
        texts = all(isinstance(text, str) for one in state["environments"] for pair in one.items() for text in pair)
        inside = 0 <= state["epoch"] <= epochs and 0 <= state["step"] <= steps and state["part"] > 0
        if not (whole and counts and widths and texts and inside and state["lanes"] >= lanes):
            return "its counts do not fit one another"
    except (TypeError, AttributeError, RecursionError) as error:
        return f"it is of other kinds of values ({error})"
    return None


def _form(values: Any) -> Any:
    """Names, shapes and types of a nest of tensors."""
    if isinstance(values, torch.Tensor):
        return tuple(values.shape), values.dtype
    if isinstance(values, dict):
        return {name: _form(value) for name, value in values.items()}
    return [_form(value) for value in values]
