"""What a person sees: a log with times, and errors in one line."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from smallbatch.core.errors import Stopped, UserError

log = logging.getLogger("smallbatch")

MODULES_BY_EXTRA = {
    "training": ("torch", "torchvision", "sklearn", "PIL", "safetensors", "requests"),
    "sharing": ("dvc", "rocrate"),
    "hdf5": ("h5py",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
"""Extra of pyproject.toml -> the modules that it installs: an environment for readers has no training."""

IN_A_CLONE = ("training", "sharing")
"""Extras that `make env` installs."""


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; without tqdm imported there is no bar."""
        bars = sys.modules.get("tqdm")
        write = bars.tqdm.write if bars else print
        write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log file that ignores failed writes: a full disk is reported once, by the work itself."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line."""


def clock(seconds: float) -> str:
    """A duration as on a clock: 1:05, or with hours 1:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


@contextlib.contextmanager
def log_and_exit_on_error(log_file: str | Path | None = None) -> Iterator[None]:
    """Context that logs to `log_file`, or to the terminal if it is None.

    On a signal or a user error (including a file that cannot be opened), one line is printed and the process exits.
    """
    handler = _LogFile(log_file, "w", "utf-8", errors="backslashreplace") if log_file else _Terminal()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except (Stopped, UserError) as reason:
        line = f"error: {reason}" if isinstance(reason, UserError) else str(reason)
        log.error(line)
        sys.exit(line if log_file else 1)
    except KeyboardInterrupt:  # in work that saves no state on the way, and so does not listen for signals
        log.error("stopped by SIGINT")
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = next((extra for extra, modules in MODULES_BY_EXTRA.items() if error.name in modules), None)
        if extra is None:
            raise
        installs = f"pip install 'smallbatch[{extra}]'"
        mends = f"`make env` in a clone, or {installs}, brings it" if extra in IN_A_CLONE else f"{installs} brings it"
        line = f"error: {error.name} is not installed in {sys.prefix}, and this needs it: {mends}"
        log.error(line)
        sys.exit(line if log_file else 1)
    except OSError as error:
        if not isinstance(error.filename, str | bytes):
            raise
        line = f"error: {UserError(f'{os.fsdecode(error.filename)}: {error.strerror}')}"
        log.error(line, exc_info=bool(log_file))
        sys.exit(line if log_file else 1)
    except BaseException:
        if log_file:
            log.exception("failed")
        raise
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
