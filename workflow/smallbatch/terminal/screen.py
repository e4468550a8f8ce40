"""A terminal whose last line is redrawn in place, below the output of this process and its children."""

import contextlib
import os
import threading

ERASE = "\r\x1b[K"
"""Moves to the start of the line and clears the line."""

END = b"\x00"
"""Marks the end of the relayed output."""


class Screen:
    """Takes over a file descriptor, such as standard error: text written to it appears above the last line.

    Child processes that start later write there too, and see no terminal: they draw no progress bars of their own.
    Output to a terminal that was closed is dropped.

    Args:
        descriptor: the file descriptor of a terminal.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self.muted = False
        """Whether text written to the descriptor is dropped."""
        self._descriptor, self._terminal, self._line = descriptor, os.dup(descriptor), ""
        self._writing = threading.RLock()  # reentrant: Ctrl-C may arrive while its own thread writes
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
        os.close(self._terminal)
        os.close(self._pipe)

    def _relay_all(self) -> None:
        """Write relayed text line by line as it arrives."""
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
