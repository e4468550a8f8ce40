"""Another environment for a process that trains a model: other arguments, host, number of processors and time.

Environment variables of such a process are in `check_processes.OTHER_VARIABLES`.
"""

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

PROCESSORS = 63
"""Number of processors of the machine, and of torch's threads."""


@contextlib.contextmanager
def other_environment() -> Iterator[None]:
    """Context in which Python reports another environment; what C code reads directly is not changed."""
    system = os.uname()
    with contextlib.ExitStack() as patches:
        for owner, name, value in (
            (sys, "argv", ["elsewhere", "--verbose", "7"]),
            (os, "uname", lambda: os.uname_result((system[0], "elsewhere", "0.0", "#0", "elsewhere"))),
            (os, "cpu_count", lambda: PROCESSORS),
            (torch, "get_num_threads", lambda: PROCESSORS),
            (socket, "gethostname", lambda: "elsewhere"),
            (platform, "_uname_cache", None),
            (np, "datetime64", _later),
        ):
            patches.enter_context(mock.patch.object(owner, name, value))
        yield


_DATETIME = np.datetime64


def _later(*arguments: Any) -> Any:
    """`numpy.datetime64`, but 400 days and 5 hours later if the current time is requested."""
    date = _DATETIME(*arguments)
    return date + np.timedelta64(400 * 24 + 5, "h") if arguments and arguments[0] in ("now", "today") else date
