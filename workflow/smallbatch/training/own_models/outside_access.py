"""Detects what a user's model reads from outside its files, which could change results without changing run names.

Python's audit events and calls are observed; files opened by compiled code are not, except by safetensors.
"""

import contextlib
import functools
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.models import file_of, is_the_projects

CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
"""Qualified names of C functions that return the time, and that have no module."""

ALLOWED_CALLS = {"fspath", "getcwd", "sleep", "struct_time"}
"""Functions of the modules `os` and `time` that may be called."""

FORBIDDEN_EVENTS = {
    "open", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo", "sqlite3.connect",
    "subprocess.Popen",
}  # fmt: skip
"""Audit events of files that are opened, and of requests to other processes, machines or databases."""

_INSTALLED = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
if sys.prefix != sys.base_prefix:
    _INSTALLED.add(sys.prefix)
_SYSTEM = {"/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"}
_IMPORT = "<frozen importlib"


MODELS_FOLDER = Path(models.__file__).resolve().parent

SEEDING = {"manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all"}
"""Functions of `torch.random` and `torch.cuda` by which a model would override its run's seed."""

DEVICE_QUERIES = {
    "current_device", "device_count", "get_cpu_capability", "get_device_capability", "get_device_name",
    "get_device_properties", "is_available", "parallel_info", "show",
}  # fmt: skip
"""Functions of torch that return a machine's devices or torch's build: a run has the same name on all machines."""


class _Listener(NamedTuple):
    """Files of a model, and what their code has read, asked the system and seeded so far.

    library: files of the project that are already imported; reading them is allowed, as tracebacks do.
    """

    files: set[str]
    library: set[Path]
    read: set[Path]
    asked: list[str]
    seeded: list[str]


_listeners: list[_Listener] = []


@contextlib.contextmanager
def outside_access_refused(files: set[Path], name: str) -> Iterator[Callable[[], None]]:
    """Context that refuses a model that depends on anything that is not hashed into its runs' names.

    The check is made at the end, and whenever the function that this yields is called.

    Args:
        files: files of the model.
        name: name of the model, for the error.

    Raises:
        UserError: says what it reads or asks.
    """
    models.forget_modules()
    listener, profile = _Listener(set(map(str, files)), _imported_of_the_library(), set(), [], []), sys.getprofile()
    _listeners.append(listener)
    sys.setprofile(_on_call)
    try:
        yield functools.partial(_refuse, listener, files, name)
    finally:
        sys.setprofile(profile)
        _listeners.pop()
    _refuse(listener, files, name)


def _refuse(listener: _Listener, files: set[Path], name: str) -> None:
    """Refuse a model for what it has read, asked and seeded so far."""
    allowed = "which is no part of its runs' names; allowed: what its file, and those that it imports beside it, have"
    if listener.seeded:  # first, for torch reads source files then, to say where it was seeded
        raise UserError(
            f"{name}: it seeds torch's random numbers, by {listener.seeded[0]}; allowed: to draw them, as the run's "
            "seed has them"
        )
    if others := sorted(listener.read - files):
        raise UserError(f"{name}: it reads {others[0]}, {allowed}")
    if listener.asked:
        raise UserError(f"{name}: it asks the system, by {listener.asked[0]}, {allowed}")


@contextlib.contextmanager
def call_tracing_paused() -> Iterator[None]:
    """Context without the tracing of calls, which slows code down several times: for code that was traced before."""
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profile)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    """Record files opened for reading, and other system requests, by the model's code or code that it calls."""
    if not _listeners or event not in FORBIDDEN_EVENTS:
        return
    listener = _listeners[-1]
    caller, imports = _caller(sys._getframe(), listener.files)
    if not caller:
        return
    if event == "open":
        _on_open(listener, *arguments, imports=imports)
    elif not imports:
        listener.asked.append(event)


def _on_open(listener: _Listener, file: object, mode: str | None, flags: int, *, imports: bool) -> None:
    if not isinstance(file, str | bytes) or not _reads(mode, flags):
        return
    path = Path(os.path.abspath(os.fsdecode(file)))
    if path.parent.name == "__pycache__":
        path = path.parents[1] / f"{path.name.partition('.')[0]}.py"
    allowed = _INSTALLED | _SYSTEM if imports else _INSTALLED  # libraries access the system while they are imported
    if any(path.is_relative_to(folder) for folder in allowed):
        return
    path = path.resolve()
    if not is_the_projects(path) and path not in listener.library:
        listener.read.add(path)


def _reads(mode: str | None, flags: int) -> bool:
    """Whether opening a file in this way allows its earlier content to be read."""
    if mode is None:
        return not flags & (os.O_WRONLY | os.O_TRUNC)
    return not set("wx").intersection(mode) and ("a" not in mode or "+" in mode)


def _imported_of_the_library() -> set[Path]:
    package = __name__.partition(".")[0]
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == package]
    return {file for file in map(file_of, modules) if file and file.parent != MODELS_FOLDER}


def _on_call(frame: FrameType, event: str, called: object) -> None:
    """Record direct calls of a model's code for time, environment and the like, and safetensors files."""
    if event == "call":
        code = frame.f_code
        if code is _ENVIRONMENT or code.co_name in SEEDING or code.co_name in DEVICE_QUERIES:
            _on_python_call(frame, _listeners[-1])
    elif event == "c_call":
        listener = _listeners[-1]
        if type(getattr(called, "__self__", None)).__name__ == "safe_open":
            if _caller(frame, listener.files)[0]:
                listener.asked.append("safetensors")
        elif frame.f_code.co_filename in listener.files and (name := _asks(called)):
            listener.asked.append(name)


def _on_python_call(frame: FrameType, listener: _Listener) -> None:
    if frame.f_code is _ENVIRONMENT:
        if _asker(frame).f_code.co_filename in listener.files:
            listener.asked.append(f"os.environ, {frame.f_locals['key']}")
        return
    caller = _behind_wrapper(frame)
    # While a file is imported, seeding has no effect on runs, and device queries serve only its own scripts.
    if caller.co_filename in listener.files and caller.co_name != "<module>" and _is_of_torch(frame):
        name = frame.f_code.co_name
        (listener.asked if name in DEVICE_QUERIES else listener.seeded).append(f"{frame.f_globals['__name__']}.{name}")


_ENVIRONMENT = type(os.environ).__getitem__.__code__
_BETWEEN = {_ENVIRONMENT.co_filename, type(os.environ).get.__code__.co_filename}


_DECORATORS = {"torch._compile", "torch._dynamo.eval_frame"}


def _behind_wrapper(frame: FrameType) -> CodeType:
    """The code that calls a function of torch, possibly through one of torch's decorators."""
    caller = frame.f_back
    while caller and caller.f_globals.get("__name__") in _DECORATORS:
        caller = caller.f_back
    return (caller or frame).f_code


def _is_of_torch(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"


def _asker(frame: FrameType) -> FrameType:
    """The frame that reads the environment, without the frames of the environment's own methods."""
    while frame.f_back and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    return frame


def _asks(called: object) -> str:
    """The name of a C function that asks the system; empty for most functions."""
    module, name = getattr(called, "__module__", None), getattr(called, "__name__", "")
    if module in ("time", "posix", "nt", "_socket") and name not in ALLOWED_CALLS:
        return f"{module}.{name}"
    qualified = getattr(called, "__qualname__", "")
    return qualified if qualified in CLOCKS or name == "from_file" else ""


def _caller(frame: FrameType | None, files: set[str]) -> tuple[FrameType | None, bool]:
    """The innermost frame of a model's code, and whether that frame is importing something."""
    imports = False
    while frame and frame.f_code.co_filename not in files:
        imports |= frame.f_code.co_filename.startswith(_IMPORT)
        frame = frame.f_back
    return frame, imports


sys.addaudithook(_on_event)
