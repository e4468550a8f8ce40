"""The compiled kernels and their interface: built once per machine from `kernels.cpp` by its C++ compiler."""

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

from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import atomic, set_aside_cache_file

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")
COMPILE_TIMEOUT_S = 300
"""Timeout of the compiler, in seconds."""

log = logging.getLogger(__name__)


class TensorView(ctypes.Structure):
    """A value or gradient: offset and size in floats, height, width, channels (padded), border; see kernels.cpp."""

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
        *((name, c_int64) for name in ("weight_at", "bias_at", "transposed_at", "extra_at")),
        ("eps", c_float),
    )


class Program(ctypes.Structure):
    """A model as a program of the kernels; see kernels.cpp."""

    _fields_ = (
        ("ops", POINTER(Op)),
        ("views", POINTER(TensorView)),
        ("count", c_int64),
        *((name, c_int32) for name in ("input", "logits", "d_logits", "classes")),
        *((name, c_int64) for name in ("image_floats", "arena_floats", "statistics_floats")),
        *((name, c_int64) for name in ("packed_floats", "transposed_floats")),
    )


class Lane(ctypes.Structure):
    """Addresses of a lane's tensors, and of the optimiser's state for each; see kernels.cpp."""

    _fields_ = tuple((name, POINTER(c_void_p)) for name in ("tensors", "means", "squares"))


class Rule(ctypes.Structure):
    """The optimiser's rule and settings; see kernels.cpp."""

    _fields_ = (
        *((name, c_int32) for name in ("optimizer", "decays_biases", "decays_norms")),
        *((name, c_float) for name in ("decay", "beta1", "beta2", "eps", "clip")),
    )


OPTIMIZERS = ("sgd", "nesterov", "adam", "adamw", "lion")
"""Optimisers in the order of their numbers in a `Rule`."""


INTERFACE = 4
"""Version of the interface declared here; see kernels.cpp."""

STRUCTS: tuple[type[ctypes.Structure], ...] = (TensorView, Op, Program, Lane, Rule)
"""All structs, in the order of kernels.cpp."""


class InterfaceMismatch(Exception):
    """The kernels' declarations differ from those here: they would access wrong memory."""


_TRAIN = (
    *(POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, c_int64),
    *(*(c_void_p,) * 6, POINTER(Rule), c_int64, c_float, c_float, c_void_p),
)
_LOGITS = (POINTER(Program), POINTER(Lane), c_int64, c_int64, c_int64, *(c_void_p,) * 4)
_GRADIENTS = (*_LOGITS, c_void_p, c_float)


def compiler() -> list[str] | None:
    """The command of the C++ compiler, preferably `$CXX`; None if there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    return None


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The kernels, compiled if necessary; None, with a message in the log, if they are not available."""
    command = compiler()
    if command is None:
        log.info("no C++ compiler here: training goes operation by operation, slower")
        return None
    try:
        library = _built(command)
        _check_interface(library)
    except InterfaceMismatch as error:
        log.warning("%s: %s: training goes operation by operation, slower", SOURCE, error)
        return None
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        log.info("kernels cannot be compiled (%s): training goes operation by operation, slower", reason)
        return None
    library.smallbatch_vector.restype = library.smallbatch_max_channels.restype = c_int32
    library.smallbatch_train.argtypes, library.smallbatch_train.restype = _TRAIN, c_int32
    library.smallbatch_gradients.argtypes, library.smallbatch_gradients.restype = _GRADIENTS, c_int32
    library.smallbatch_logits.argtypes, library.smallbatch_logits.restype = _LOGITS, None
    return library


def _check_interface(library: ctypes.CDLL) -> None:
    """Compare the declarations here with those in kernels.cpp.

    Raises:
        OtherInterface: the version or the size of a struct differs. Compiling again would not help: a library is cached
            under a digest of its source.
    """
    library.smallbatch_interface.restype = c_int32
    library.smallbatch_struct_size.argtypes, library.smallbatch_struct_size.restype = (c_int32,), c_int64
    if (number := library.smallbatch_interface()) != INTERFACE:
        raise InterfaceMismatch(f"its interface is number {number}, that of library.py {INTERFACE}")
    for index, struct in enumerate(STRUCTS):
        if (size := library.smallbatch_struct_size(index)) != ctypes.sizeof(struct):
            raise InterfaceMismatch(f"{struct.__name__} has {size} bytes, in library.py {ctypes.sizeof(struct)}")


def loaded() -> ctypes.CDLL:
    """The kernels, if they are known to be available."""
    library = kernels()
    assert library is not None
    return library


def simd_width() -> int:
    """Number of floats in a vector of this processor: channels are padded to whole vectors in memory."""
    return int(loaded().smallbatch_vector())


def max_channels() -> int:
    """Maximum number of channels of a tensor."""
    return int(loaded().smallbatch_max_channels())


def _built(command: list[str]) -> ctypes.CDLL:
    """The library from the user's cache folder, compiled if necessary."""
    version = _output_of([*command, "--version"])
    # The last item distinguishes these libraries from those of earlier versions, whose seals differ.
    recipe = [
        SOURCE.read_text(encoding="utf-8"),
        *command,
        *FLAGS,
        version,
        platform.machine(),
        _instructions(),
        "sealed",
    ]
    name = f"kernels-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:16]}.so"
    try:
        return _loaded(command, cache_folder() / name)
    except (OSError, RuntimeError, UserError) as error:  # no home folder, a full one or one with noexec
        log.info("kernels are compiled for this process alone: %s", error)
    with tempfile.TemporaryDirectory() as folder:
        return _loaded(command, Path(folder) / name)


def _output_of(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILE_TIMEOUT_S
    ).stdout


def _instructions() -> str:
    """The processor's instruction sets: machines that share a home folder may differ."""
    info = Path("/proc/cpuinfo")
    first = (
        info.read_text(encoding="utf-8").partition("\n\n")[0].splitlines() if info.exists() else [platform.processor()]
    )
    telling = ("flags", "Features", "vendor_id", "cpu family", "model", "CPU ")
    return "\n".join(line for line in first if line.startswith(telling))


def _loaded(command: list[str], path: Path) -> ctypes.CDLL:
    """Load the library at `path`; compiled if it does not exist, set aside and compiled again if it is damaged."""
    seal = path.with_suffix(".sha256")
    if os.path.lexists(path) and not _is_whole(path, seal):
        for damaged in filter(os.path.lexists, (path, seal)):
            log.warning("%s: damaged, set aside as %s, and made again", damaged, set_aside_cache_file(damaged))
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            _output_of([*command, *FLAGS, "-o", str(made), str(SOURCE)])
            content = made.read_bytes()
        # The seal first: a library without its seal would count as damaged for another job that looks now.
        for target, what in ((seal, _seal(path.name, content)), (path, content)):
            with atomic(target) as file:
                file.write(what)
    return ctypes.CDLL(str(path))


def _is_whole(path: Path, seal: Path) -> bool:
    """Whether a library is undamaged; loading a damaged one would crash the process."""
    try:
        return path.is_file() and seal.is_file() and seal.read_bytes() == _seal(path.name, path.read_bytes())
    except OSError:
        return False


def _seal(name: str, content: bytes) -> bytes:
    """A digest of a library and of its name, which depends on the source and the processor."""
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest().encode()
