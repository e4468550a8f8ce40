"""Stopping: SIGTERM, SIGINT and SIGHUP (a terminal that closes) ask a training to end where nothing is lost.

Python's handlers run between two bytecodes, which may be anywhere. So they only take note; whoever is at a place where
the work can be left asks, every few seconds at least.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType

from smallbatch.core.errors import Stopped

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

ECHO = 2.0
"""Seconds in which signals count as one: on a cluster, and from `torchrun`, the same one comes by several ways."""


class _Ear:
    """What was heard since the outermost `listening` began.

    Attributes:
        signal: the first one's name.
        at: when it came.
        others: who is to hear of it, too.
    """

    def __init__(self) -> None:
        self.signal, self.at = "", 0.0
        self.others: list[Callable[[], object]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self.at = signal.Signals(number).name, monotonic()
            for tell in self.others:
                tell()
        elif monotonic() - self.at > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


_ears: list[_Ear] = []
"""The process's, while it listens."""


@contextlib.contextmanager
def listening(tell: Callable[[], object] | None = None) -> Iterator[None]:
    """While the block runs, each of `SIGNALS` asks for a stop; a second one ends the process at once.

    Blocks may be nested; then the stop is asked of all. Outside the main thread, which alone gets signals, nothing
    changes; nor for a signal that the process was started to ignore, as `nohup` does.

    Args:
        tell: called when a signal is heard, or at once if one was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear = _ears[-1] if _ears else _Ear()
    _ears.append(ear)
    others, ear.others = ear.others, [*ear.others, *([tell] if tell else [])]
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, ear)
        if tell and ear.signal:
            tell()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ear.others = others
        _ears.pop()


def signal_received() -> str:
    """The name of the signal that asks for a stop; empty while there is none."""
    return _ears[-1].signal if _ears else ""


def check() -> None:
    """Stop here, if that is asked.

    Raises:
        Stopped: it is.
    """
    if name := signal_received():
        raise Stopped(name)
