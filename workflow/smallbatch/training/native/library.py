"""The compiled kernels: built once a machine from `kernels.cpp` by its own C++ compiler, and their interface."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

from smallbatch.environment import cache_folder, processor_name

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")
PATIENCE = 300
"""Seconds after which a compiler that does not come back is given up."""

log = logging.getLogger(__name__)


class View(ctypes.Structure):
    """A value or gradient: where its images lie, height, width, channels (padded), border; see kernels.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("at", "size")),
        *((name, c_int32) for name in ("h", "w", "c", "pad")),
    )


class Op(ctypes.Structure):
    """One operation of a program; see kernels.cpp."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "input", "output", "residual", "d_input", "d_output", "d_residual")),
        *((name, c_int32) for name in ("accumulate", "accumulate_residual", "mask", "relu")),
        *((name, c_int32) for name in ("weight", "bias", "mean", "var", "in_channels", "out_channels")),
        *((name, c_int32) for name in ("kernel_h", "kernel_w", "stride", "pad")),
        *((name, c_int64) for name in ("weight_at", "bias_at", "turned_at", "extra_at")),
        ("eps", c_float),
    )


class Program(ctypes.Structure):
    """A model as the kernels run it; see kernels.cpp."""

    _fields_ = (
        ("ops", POINTER(Op)),
        ("views", POINTER(View)),
        ("count", c_int64),
        *((name, c_int32) for name in ("input", "logits", "d_logits", "classes")),
        *((name, c_int64) for name in ("image_floats", "arena_floats", "statistics_floats")),
        *((name, c_int64) for name in ("packed_floats", "turned_floats")),
    )


class Lane(ctypes.Structure):
    """Where a lane's tensors and, with momentum, their velocities lie."""

    _fields_ = (("tensors", POINTER(c_void_p)), ("velocities", POINTER(c_void_p)))


_TRAIN = (
    *(POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, c_int64, c_int64),
    *(c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_float, c_float, c_void_p),
)
_LOGITS = (POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, *(c_void_p,) * 4)


def compiler() -> list[str] | None:
    """The command of the C++ compiler, `$CXX` before others; none where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    return None


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The kernels, compiled if need be; none, with a word on the log, where they cannot be had."""
    command = compiler()
    if command is None:
        log.info("no C++ compiler here: training goes operation by operation, slower")
        return None
    try:
        library = ctypes.CDLL(str(_built(command)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        log.info("kernels cannot be compiled (%s): training goes operation by operation, slower", reason)
        return None
    library.smallbatch_vector.restype = c_int32
    library.smallbatch_train.argtypes, library.smallbatch_train.restype = _TRAIN, None
    library.smallbatch_logits.argtypes, library.smallbatch_logits.restype = _LOGITS, None
    return library


def vector() -> int:
    """Numbers that a vector of this processor holds: channels lie in memory in whole vectors."""
    return kernels().smallbatch_vector()


def _built(command: list[str]) -> Path:
    """The compiled library, from the cache or made now."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    told = [SOURCE.read_text(), *command, *FLAGS, version.stdout, platform.machine(), processor_name()]
    name = f"kernels-{hashlib.sha256(chr(0).join(told).encode()).hexdigest()[:16]}.so"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return _compiled(command, folder / name)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        return _compiled(command, Path(tempfile.mkdtemp()) / name)


def _compiled(command: list[str], target: Path) -> Path:
    if not target.exists():
        # Beside the target and renamed, since other jobs may compile the same now.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            subprocess.run(
                [*command, *FLAGS, "-o", str(made), str(SOURCE)],
                capture_output=True, text=True, check=True, timeout=PATIENCE,
            )  # fmt: skip
            os.replace(made, target)
    return target


if __name__ == "__main__":
    sys.exit(0 if kernels() else "kernels cannot be had here")
