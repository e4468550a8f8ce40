"""What code of a user's model reads from outside its files: its numbers could change there, and no run's name would.

Heard are Python's own audit events and calls; what compiled code opens by itself is not, safetensors' files apart.
"""

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from smallbatch.core.errors import UserError
from smallbatch.models import is_the_projects

CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
"""Of what C code calls `datetime`, whose functions name no module."""

HARMLESS = {"fspath", "getcwd", "sleep", "struct_time"}
"""Of the modules `os` and `time`."""

EVENTS = {"os.fork", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"}
"""Audit events by which others are asked."""

_INSTALLED = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
if sys.prefix != sys.base_prefix:
    _INSTALLED.add(sys.prefix)
_SYSTEM = {"/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"}
_IMPORT = "<frozen importlib"


SEEDING = {"manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all"}
"""Functions of `torch.random` and `torch.cuda` by which a model would fix what its run's seed is to decide."""


class _Listener(NamedTuple):
    """Of a model: its files, and what their code has read, asked and seeded so far."""

    own: set[str]
    read: set[Path]
    asked: list[str]
    seeded: list[str]


_listeners: list[_Listener] = []


@contextlib.contextmanager
def nothing_outside(own: set[Path], where: str) -> Iterator[None]:
    """Refuse a model that reads, imports or asks what is no part of its runs' names.

    Args:
        own: its files.
        where: what the error names.

    Raises:
        UserError: says what it reads or asks.
    """
    listener, profile = _Listener(set(map(str, own)), set(), [], []), sys.getprofile()
    _listeners.append(listener)
    sys.setprofile(_hear_call)
    try:
        yield
    finally:
        sys.setprofile(profile)
        _listeners.pop()
    allowed = "which is no part of its runs' names; allowed: what its file, and those that it imports beside it, have"
    if others := sorted(listener.read - own):
        raise UserError(f"{where}: it reads {others[0]}, {allowed}")
    if listener.asked:
        raise UserError(f"{where}: it asks the system, by {listener.asked[0]}, {allowed}")
    if listener.seeded:
        raise UserError(
            f"{where}: it seeds torch's random numbers, by {listener.seeded[0]}; allowed: to draw them, as the run's "
            "seed has them"
        )


@contextlib.contextmanager
def without_calls() -> Iterator[None]:
    """While it lasts, calls are not heard, which takes several times as long: for code that was heard before."""
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profile)


def _hear_event(event: str, arguments: tuple[Any, ...]) -> None:
    """Note a file that is opened for reading, and whoever else is asked, by a model's code or by what that calls."""
    if not _listeners or event not in EVENTS | {"open"}:
        return
    listener = _listeners[-1]
    caller, imports = _caller(sys._getframe(), listener.own)
    if not caller:
        return
    if event == "open":
        _hear_open(listener, *arguments, imports=imports)
    elif not imports:
        listener.asked.append(event)


def _hear_open(listener: _Listener, file: object, mode: str | None, flags: int, *, imports: bool) -> None:
    writes = flags & (os.O_WRONLY | os.O_RDWR) if mode is None else set("wax+").intersection(mode)
    if not isinstance(file, str | bytes) or writes:
        return
    path = Path(os.path.abspath(os.fsdecode(file)))
    if path.parent.name == "__pycache__":
        path = path.parents[1] / f"{path.name.partition('.')[0]}.py"
    given = _INSTALLED | _SYSTEM if imports else _INSTALLED  # libraries ask the system as they are imported
    if not any(path.is_relative_to(place) for place in given) and not is_the_projects(path.resolve()):
        listener.read.add(path.resolve())


def _hear_call(frame: FrameType, event: str, called: object) -> None:
    """Note a clock, the environment and the like that a model's code asks directly, and files of safetensors."""
    listener = _listeners[-1]
    if event == "call" and frame.f_code is _ENVIRONMENT:
        if _asker(frame).f_code.co_filename in listener.own:
            listener.asked.append(f"os.environ, {frame.f_locals['key']}")
    elif event == "call" and frame.f_code.co_name in SEEDING:
        caller = _behind_wrapper(frame)
        # As a file is imported it seeds nothing that is used.
        if caller.co_filename in listener.own and caller.co_name != "<module>" and _is_of_torch(frame):
            listener.seeded.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
    elif event == "c_call" and type(getattr(called, "__self__", None)).__name__ == "safe_open":
        if _caller(frame, listener.own)[0]:
            listener.asked.append("safetensors")
    elif event == "c_call" and frame.f_code.co_filename in listener.own and (name := _asks(called)):
        listener.asked.append(name)


_ENVIRONMENT = type(os.environ).__getitem__.__code__
_BETWEEN = {_ENVIRONMENT.co_filename, type(os.environ).get.__code__.co_filename}


_DECORATORS = {"torch._compile", "torch._dynamo.eval_frame"}


def _behind_wrapper(frame: FrameType) -> CodeType:
    """The code that calls a function of torch, which may have one of torch's decorators around it."""
    caller = frame.f_back
    while caller and caller.f_globals.get("__name__") in _DECORATORS:
        caller = caller.f_back
    return (caller or frame).f_code


def _is_of_torch(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"


def _asker(frame: FrameType) -> FrameType:
    """The frame that asks the environment, behind those of its own methods."""
    while frame.f_back and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    return frame


def _asks(called: object) -> str:
    """What a function of C asks, in words; nothing of most."""
    module, name = getattr(called, "__module__", None), getattr(called, "__name__", "")
    if module in ("time", "posix", "nt", "_socket") and name not in HARMLESS:
        return f"{module}.{name}"
    qualified = getattr(called, "__qualname__", "")
    return qualified if qualified in CLOCKS or name == "from_file" else ""


def _caller(frame: FrameType | None, own: set[str]) -> tuple[FrameType | None, bool]:
    """The innermost frame of a model's code, and whether it is importing something there."""
    imports = False
    while frame and frame.f_code.co_filename not in own:
        imports |= frame.f_code.co_filename.startswith(_IMPORT)
        frame = frame.f_back
    return frame, imports


sys.addaudithook(_hear_event)
