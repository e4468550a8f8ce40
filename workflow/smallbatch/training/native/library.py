"""The compiled kernels: built once a machine from `kernels.cpp` by its own C++ compiler, and their interface."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

from smallbatch.environment import cache_folder
from smallbatch.errors import UserError
from smallbatch.files import atomic, set_aside, sha256

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
    *(POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, c_int64),
    *(c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_float, c_float, c_void_p),
)
_GRADIENTS = _LOGITS = (POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, *(c_void_p,) * 4)


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
        library = _built(command)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        log.info("kernels cannot be compiled (%s): training goes operation by operation, slower", reason)
        return None
    library.smallbatch_vector.restype = c_int32
    library.smallbatch_train.argtypes, library.smallbatch_train.restype = _TRAIN, c_int32
    library.smallbatch_gradients.argtypes, library.smallbatch_gradients.restype = _GRADIENTS, c_int32
    library.smallbatch_logits.argtypes, library.smallbatch_logits.restype = _LOGITS, None
    return library


def vector() -> int:
    """Numbers that a vector of this processor holds: channels lie in memory in whole vectors."""
    return kernels().smallbatch_vector()


def _built(command: list[str]) -> ctypes.CDLL:
    """The library, from the user's cache folder or made now."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    told = [SOURCE.read_text(encoding="utf-8"), *command, *FLAGS, version.stdout, platform.machine(), _instructions()]
    name = f"kernels-{hashlib.sha256(chr(0).join(told).encode()).hexdigest()[:16]}.so"
    with contextlib.suppress(OSError, RuntimeError, UserError):  # no home, or one that is full or runs no programs
        return _loaded(command, cache_folder() / name)
    with tempfile.TemporaryDirectory() as folder:
        return _loaded(command, Path(folder) / name)


def _instructions() -> str:
    """What the processor can do: machines that share a home folder may differ."""
    info = Path("/proc/cpuinfo")
    first = (
        info.read_text(encoding="utf-8").partition("\n\n")[0].splitlines() if info.exists() else [platform.processor()]
    )
    telling = ("flags", "Features", "vendor_id", "cpu family", "model", "CPU ")
    return "\n".join(line for line in first if line.startswith(telling))


def _loaded(command: list[str], path: Path) -> ctypes.CDLL:
    """Load the library at `path`; made if it is not there, set aside and made anew if it is damaged."""
    digest = path.with_suffix(".sha256")
    if path.exists() and not (digest.exists() and digest.read_text(encoding="utf-8") == sha256(path)):
        log.warning("%s: damaged, set aside as %s", path, set_aside(path))
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            subprocess.run(
                [*command, *FLAGS, "-o", str(made), str(SOURCE)],
                capture_output=True, text=True, check=True, timeout=PATIENCE,
            )  # fmt: skip
            content = made.read_bytes()
        # The digest first: a library without its own would count as damaged to another job that looks now.
        for target, what in ((digest, hashlib.sha256(content).hexdigest().encode()), (path, content)):
            with atomic(target) as file:
                file.write(what)
    return ctypes.CDLL(str(path))
