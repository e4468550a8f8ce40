"""A terminal whose last line is redrawn in place, below the output of this process and its children."""

import contextlib
import os
import select
import signal
import threading

ERASE = "\r\x1b[K"
"""Moves to the start of the line and clears the line."""

END = b"\x00"
"""Marks the end of the relayed output."""


class Screen:
    """Takes over a file descriptor, such as standard error: text written to it appears above the last line.

    Child processes that start later write there too, and see no terminal: they draw no progress bars of their own.
    Output to a terminal that was closed is dropped. Made by the main thread, which alone may ask for signals.

    Args:
        descriptor: the file descriptor of a terminal.
        interrupted: the text to write on Ctrl-C, after which text written to the descriptor is dropped.
    """

    def __init__(self, descriptor: int = 2, interrupted: str = "") -> None:
        self.muted = False
        """Whether text written to the descriptor is dropped."""
        self._descriptor, self._terminal, self._line = descriptor, os.dup(descriptor), ""
        self._interrupted = interrupted
        self._writing = threading.RLock()  # reentrant: Ctrl-C may arrive while its own thread writes
        # A Python handler of signals waits for the main thread, and a job may have written why it stopped before that.
        self._signals, self._signal = os.pipe()
        os.set_blocking(self._signal, False)
        self._former = signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        self._pipe, end = os.pipe()
        os.dup2(end, descriptor)
        os.close(end)
        self._relay = threading.Thread(target=self._relay_all, daemon=True)
        self._relay.start()

    @property
    def width(self) -> int:
        """The number of columns of the terminal."""
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._terminal).columns or 80
        return 80

    def draw(self, line: str) -> None:
        """Draw the last line, which must be shorter than the terminal is wide."""
        with self._writing:
            self._line = line
            self._write(ERASE + line)

    def say(self, text: str) -> None:
        """Write text above the last line."""
        with self._writing:
            self._write(f"{ERASE}{text}\n{self._line}")

    def close(self) -> None:
        """Write all remaining text, erase the last line and restore the file descriptor."""
        os.write(self._descriptor, END)
        os.dup2(self._terminal, self._descriptor)
        self._relay.join()
        self.draw("")
        signal.set_wakeup_fd(self._former)
        for descriptor in (self._terminal, self._pipe, self._signals, self._signal):
            os.close(descriptor)

    def _relay_all(self) -> None:
        """Write relayed text line by line as it arrives."""
        rest = b""
        while not rest.endswith(END):
            ready, _, _ = select.select([self._pipe, self._signals], [], [])
            if self._signals in ready:
                self._mute(os.read(self._signals, 65536))
            if self._pipe not in ready:
                continue
            *lines, rest = (rest + os.read(self._pipe, 65536)).split(b"\n")
            if lines:
                self._pass_on(lines)
        if rest := rest.removesuffix(END):
            self._pass_on([rest])

    def _mute(self, signals: bytes) -> None:
        """Drop what follows, if Ctrl-C is among the numbers of signals."""
        if signal.SIGINT in signals and self._interrupted and not self.muted:
            self.muted = True
            self.say(self._interrupted)

    def _pass_on(self, lines: list[bytes]) -> None:
        if not self.muted:
            self.say(b"\n".join(lines).decode(errors="replace"))

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._terminal, text.encode())
