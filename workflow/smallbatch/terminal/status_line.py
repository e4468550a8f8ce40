"""A terminal whose last line is redrawn in place, below all that this process and its children write."""

import contextlib
import os
import threading

ERASE = "\r\x1b[K"
"""Back to the begin of the line, and nothing on it."""

END = b"\x00"
"""Ends what is relayed."""


class Screen:
    """Takes over a file descriptor, as standard error: what is written to it goes above the last line.

    Children that begin later write there too, and see no terminal: they draw no progress bars of their own. A terminal
    that is gone swallows what is written.

    Args:
        descriptor: that of a terminal.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self.muted = False
        """Whether what others write is dropped."""
        self._descriptor, self._terminal, self._line = descriptor, os.dup(descriptor), ""
        self._writing = threading.RLock()  # Ctrl-C may come while its own thread writes
        self._pipe, end = os.pipe()
        os.dup2(end, descriptor)
        os.close(end)
        self._relay = threading.Thread(target=self._relay_all, daemon=True)
        self._relay.start()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._terminal).columns or 80
        return 80

    def draw(self, line: str) -> None:
        """Make this the last line; it has to be shorter than the terminal is wide."""
        with self._writing:
            self._line = line
            self._write(ERASE + line)

    def say(self, text: str) -> None:
        """Write text above the last line."""
        with self._writing:
            self._write(f"{ERASE}{text}\n{self._line}")

    def close(self) -> None:
        """Write what came before, erase the last line and give the file descriptor back."""
        os.write(self._descriptor, END)
        os.dup2(self._terminal, self._descriptor)
        self._relay.join()
        self.draw("")
        os.close(self._terminal)
        os.close(self._pipe)

    def _relay_all(self) -> None:
        """Whole lines, as they come."""
        rest = b""
        while not rest.endswith(END):
            *lines, rest = (rest + os.read(self._pipe, 65536)).split(b"\n")
            if lines:
                self._pass_on(lines)
        if rest := rest.removesuffix(END):
            self._pass_on([rest])

    def _pass_on(self, lines: list[bytes]) -> None:
        if not self.muted:
            self.say(b"\n".join(lines).decode(errors="replace"))

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._terminal, text.encode())
