"""Mistakes that a user can mend, told in one line."""

from pathlib import Path
from typing import Any, NoReturn


class UserError(Exception):
    """Something that the user can mend. Its text is one line: where, what was found, what is allowed."""


def refuse(where: str | Path, key: str, value: Any, allowed: str) -> NoReturn:
    """Raise a `UserError` that names file, key, value and what is allowed."""
    raise UserError(f"{where}: {key}: {value!r} is not allowed; allowed: {allowed}")
