"""Stopping: SIGTERM, SIGINT and SIGHUP (a terminal that closes) ask a training to end at a point where nothing is lost.

Python's signal handlers run between any two bytecodes. So they only record the signal, and the work checks for it at
points where it can stop, at least every few seconds.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType

from smallbatch.core.errors import Stopped

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

REPEATED_WITHIN_S = 2.0
"""Seconds within which signals count as one: on a cluster, and from `torchrun`, the same signal arrives repeatedly."""


class _SignalHandler:
    """The signal received since the outermost `catching_signals` began.

    Attributes:
        signal: the name of the first signal; empty before one arrives.
        at: the time at which it arrived.
        others: functions to call when it arrives.
    """

    def __init__(self) -> None:
        self.signal, self.at = "", 0.0
        self.others: list[Callable[[], object]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self.at = signal.Signals(number).name, monotonic()
            for function in self.others:
                function()
        elif monotonic() - self.at > REPEATED_WITHIN_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


_handlers: list[_SignalHandler] = []
"""The receiver of each `catching_signals` that is active in this process."""


@contextlib.contextmanager
def catching_signals(on_signal: Callable[[], object] | None = None) -> Iterator[None]:
    """Context in which each of `SIGNALS` asks for a stop; a second one ends the process at once.

    Contexts may be nested; a signal then asks all of them to stop. Outside the main thread, the only one that receives
    signals, the context does nothing; nor does it for signals that the process was started to ignore, as by `nohup`.

    Args:
        on_signal: a function that is called when a signal arrives, or at once if one has arrived.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = _handlers[-1] if _handlers else _SignalHandler()
    _handlers.append(ours)
    others, ours.others = ours.others, [*ours.others, *([on_signal] if on_signal else [])]
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, ours)
        if on_signal and ours.signal:
            on_signal()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.others = others
        _handlers.pop()


def signal_received() -> str:
    """The name of the signal that asked for a stop; empty if there was none."""
    return _handlers[-1].signal if _handlers else ""


def raise_if_signalled() -> None:
    """Stop here if a signal asked for it.

    Raises:
        Stopped: a signal asked for a stop.
    """
    if name := signal_received():
        raise Stopped(name)
