"""Exceptions that end the work early, each with a message of one line: mistakes that a user can mend, and signals."""

from pathlib import Path
from typing import Any, NoReturn

LONGEST = 200
"""The largest number of characters of a value that a message repeats."""


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: where, what was found, what is allowed."""

    def __str__(self) -> str:
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in super().__str__())


class Stopped(Exception):
    """A signal ended the work at a point where nothing is lost. The message is one line.

    Args:
        signal: the signal's name.
        position: progress in words, or empty.
    """

    def __init__(self, signal: str, position: str = "") -> None:
        super().__init__(signal, position)

    def __str__(self) -> str:
        signal, position = self.args
        return f"stopped by {signal}{position and f' at {position}'}; call again to resume from there"


def refuse(where: str | Path, key: str, value: Any, allowed: str) -> NoReturn:
    """Raise a `UserError` that names file, key, value and what is allowed."""
    found = repr(value)
    found = found if len(found) <= LONGEST else f"{found[:LONGEST]}..."
    raise UserError(f"{where}: {key}: {found} is not allowed; allowed: {allowed}")
