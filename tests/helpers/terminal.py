"""A terminal for tests: what its reader sees of what a program writes."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FORKING_JOBS = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
"""
"""A program: snakemake, started as users start it, whose jobs are started by the Python named first."""

CONTROL = re.compile(r"\x1b\[(\d*)([A-Za-z])|[\r\n]|[^\r\n\x1b]")


def lines(written: str, columns: int = 80) -> list[str]:
    """What stands in a terminal after all that was written, with returns, erased lines and wrapped ones."""
    rows, column = [""], 0
    for found in CONTROL.finditer(written):
        character = found[0]
        if character == "\r":
            column = 0
        elif character == "\n":
            rows.append("")
        elif found[2]:
            rows[-1] = rows[-1][:column] if found[2] == "K" else rows[-1]
        else:
            if column == columns:
                rows.append("")
                column = 0
            rows[-1] = rows[-1][:column].ljust(column) + character + rows[-1][column + 1 :]
            column += 1
    return [row.rstrip() for row in rows]


def call(
    folder: Path, command: Sequence[str], interrupt: Callable[[str], bool] = lambda written: False, limit: float = 300
) -> tuple[int, str]:
    """Call a program in a terminal of 80 columns; returns its exit code and all that it wrote.

    Args:
        folder: to work in.
        command: the program and its arguments.
        interrupt: whether to press Ctrl-C, once, after so much was written.
        limit: seconds after which the terminal closes.
    """
    process, terminal = pty.fork()
    if not process:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        os.chdir(folder)
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    written, pressed, end = b"", False, time.monotonic() + limit
    while time.monotonic() < end:
        if not pressed and interrupt(written.decode(errors="replace")):
            pressed = bool(os.write(terminal, b"\x03"))
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                written += os.read(terminal, 65536)
            except OSError:  # all have closed it
                break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()
